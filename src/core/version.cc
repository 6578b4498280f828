#include "hybridattn/version.h"

#define HYBRIDATTN_TEXT(x) #x
#define HYBRIDATTN_VERSION_TEXT(a, b, c) \
  HYBRIDATTN_TEXT(a) "." HYBRIDATTN_TEXT(b) "." HYBRIDATTN_TEXT(c)

namespace hybridattn {

const char* version() noexcept {
  return HYBRIDATTN_VERSION_TEXT(HYBRIDATTN_VERSION_MAJOR, HYBRIDATTN_VERSION_MINOR,
                                 HYBRIDATTN_VERSION_PATCH);
}

}  // namespace hybridattn
