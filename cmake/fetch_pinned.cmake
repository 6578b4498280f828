# fetch_pinned(NAME SUBFOLDER OUT): downloads the source archive of package NAME as third_party/pins.txt
# pins it (pip checks the hash), once into a cache folder keyed by the pins, takes out SUBFOLDER and
# sets OUT to its path.
function(fetch_pinned name subfolder out)
  set(pins ${CMAKE_SOURCE_DIR}/third_party/pins.txt)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${pins})
  file(SHA256 ${pins} key)
  string(SUBSTRING ${key} 0 16 key)
  if(DEFINED ENV{HYBRIDATTN_CACHE})
    set(cache $ENV{HYBRIDATTN_CACHE}/${key})
  else()
    set(cache ${CMAKE_SOURCE_DIR}/build/third_party/${key})
  endif()
  set(folder ${cache}/${name})
  if(NOT EXISTS ${folder}/.complete)
    if(NOT HYBRIDATTN_FETCH)
      message(FATAL_ERROR "${name} is not at hand and HYBRIDATTN_FETCH is OFF: set HWY_ROOT")
    endif()
    fetch_archive(${name} ${pins} ${cache})
    extract_folder(${name} ${subfolder} ${cache})
  endif()
  set(${out} ${folder} PARENT_SCOPE)
endfunction()

function(fetch_archive name pins cache)
  find_package(Python3 REQUIRED COMPONENTS Interpreter)
  message(STATUS "Downloading the pinned source of ${name}")
  # no_build_backend stands in for the package's own build system, none of whose code is run.
  execute_process(
    COMMAND ${CMAKE_COMMAND} -E env PYTHONPATH=${CMAKE_SOURCE_DIR}/third_party/no_build_backend
            ${Python3_EXECUTABLE} -m pip download --quiet --disable-pip-version-check --require-hashes
            --no-deps --no-build-isolation --no-binary ${name} --ignore-requires-python -r ${pins}
            -d ${cache}/download
    RESULT_VARIABLE failed ERROR_VARIABLE message OUTPUT_VARIABLE message)
  if(failed)
    message(FATAL_ERROR "pip could not download the pinned ${name}:\n${message}")
  endif()
endfunction()

function(extract_folder name subfolder cache)
  file(GLOB archive ${cache}/download/${name}-*.tar.gz)
  file(REMOVE_RECURSE ${cache}/unpacked ${cache}/${name})
  file(ARCHIVE_EXTRACT INPUT ${archive} DESTINATION ${cache}/unpacked PATTERNS "*/${subfolder}/*")
  file(GLOB found ${cache}/unpacked/*/${subfolder})
  file(RENAME ${found} ${cache}/${name})
  file(REMOVE_RECURSE ${cache}/unpacked ${cache}/download)
  file(TOUCH ${cache}/${name}/.complete)
endfunction()
