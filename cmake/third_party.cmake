# Third-party code. Highway is built from pinned sources (Debian 12 has 1.0.3, whose bf16 dot product
# is emulated); the rest are system packages of the engine and the tests.
include(fetch_pinned)

set(HWY_ROOT "" CACHE PATH "Source folder of Highway >= 1.2, instead of a download")
find_package(hwy 1.2 CONFIG QUIET)
if(hwy_FOUND)
  add_library(highway INTERFACE)
  target_link_libraries(highway INTERFACE hwy::hwy)
else()
  if(NOT HWY_ROOT)
    fetch_pinned(numpy numpy/_core/src/highway HWY_ROOT)
  endif()
  # Only what run-time dispatch needs of it: detection of the processor and nothing else. Its namespace
  # gets another name, so that a program may link another Highway beside our static library.
  add_library(highway OBJECT ${HWY_ROOT}/hwy/targets.cc ${HWY_ROOT}/hwy/per_target.cc
                             ${HWY_ROOT}/hwy/abort.cc)
  target_include_directories(highway SYSTEM PUBLIC ${HWY_ROOT})
  target_compile_definitions(highway PUBLIC HWY_STATIC_DEFINE hwy=hybridattn_hwy)
  set(highway_objects $<TARGET_OBJECTS:highway>)
endif()

if(HYBRIDATTN_ENGINE)
  find_package(nlohmann_json 3.11 REQUIRED)
  find_path(PCRE2_INCLUDE_DIR pcre2.h REQUIRED)
  find_library(PCRE2_LIBRARY pcre2-8 REQUIRED)
  add_library(pcre2 INTERFACE)
  target_include_directories(pcre2 SYSTEM INTERFACE ${PCRE2_INCLUDE_DIR})
  target_link_libraries(pcre2 INTERFACE ${PCRE2_LIBRARY})
  find_package(CLI11 2.1 REQUIRED)
endif()
if(HYBRIDATTN_TESTS)
  set(GTEST_ROOT_SOURCE /usr/src/googletest CACHE PATH "Source folder of GoogleTest, for cross builds")
  if(CMAKE_CROSSCOMPILING)  # Debian has no package of another processor's
    set(INSTALL_GTEST OFF)
    add_subdirectory(${GTEST_ROOT_SOURCE} ${CMAKE_BINARY_DIR}/googletest EXCLUDE_FROM_ALL)
  else()
    find_package(GTest 1.12 REQUIRED)
  endif()
endif()
