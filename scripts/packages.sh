# The Debian packages that a build needs, and how to get them. Sourced by scripts/run and scripts/test.
# Names only: the versions are Debian 12's, as docs/building.md lists them.

build_packages="g++ cmake ninja-build python3 python3-pip nlohmann-json3-dev libpcre2-dev libcli11-dev"
test_packages="libgtest-dev libgmock-dev pkg-config dpkg-dev"
fuzz_packages="clang-14 libclang-rt-14-dev"
emulation_packages="qemu-user g++-aarch64-linux-gnu libc6-dev-arm64-cross"

# require_packages NAME...: installs what is missing when run as root; else says how, and exits 2.
require_packages() {
  local missing=()
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' ||
      missing+=("$package")
  done
  # A g++, cmake, ninja or python3 that is not from a package serves as well.
  local still=()
  for package in "${missing[@]:-}"; do
    case "$package" in
      "") ;;
      g++ | cmake | python3) command -v "$package" >/dev/null || still+=("$package") ;;
      ninja-build) command -v ninja >/dev/null || still+=("$package") ;;
      python3-pip) python3 -m pip --version >/dev/null 2>&1 || still+=("$package") ;;
      *) still+=("$package") ;;
    esac
  done
  [ ${#still[@]} -eq 0 ] && return 0
  local command="apt-get install -y --no-install-recommends ${still[*]}"
  if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "These packages are missing. Install them and try again: $command" >&2
    exit 2
  fi
  echo "Installing: ${still[*]}" >&2
  { apt-get update && DEBIAN_FRONTEND=noninteractive $command; } >&2
}
