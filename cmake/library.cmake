# The library: compiled once, in two forms. `hybridattn` is the form that BUILD_SHARED_LIBS says.
include(GNUInstallDirs)
find_package(Threads REQUIRED)

# What everything that is compiled against the public headers needs; links nothing of ours.
add_library(hybridattn_headers INTERFACE)
target_include_directories(hybridattn_headers INTERFACE ${CMAKE_SOURCE_DIR}/include)

# A new op or kernel is one file beside its siblings.
file(GLOB_RECURSE library_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/*.cc)
list(FILTER library_sources EXCLUDE REGEX "/src/(cuda|ops/reference)/")
add_library(hybridattn_objects OBJECT ${library_sources})
target_include_directories(hybridattn_objects PRIVATE ${CMAKE_SOURCE_DIR})
target_compile_definitions(hybridattn_objects PRIVATE HYBRIDATTN_BUILDING)
target_link_libraries(hybridattn_objects PUBLIC hybridattn_headers Threads::Threads
                                         PRIVATE hybridattn_options highway)

if(HYBRIDATTN_NATIVE)
  execute_process(COMMAND ${CMAKE_CXX_COMPILER} -march=native -dM -E -x c++ /dev/null
                  OUTPUT_VARIABLE native_macros COMMAND_ERROR_IS_FATAL ANY)
  if(NOT native_macros MATCHES "__AVX512F__")
    target_compile_definitions(hybridattn_objects PRIVATE HYBRIDATTN_WITHOUT_AVX512)
  elseif(native_macros MATCHES "__AVX512BF16__")
    target_compile_definitions(hybridattn_objects PRIVATE HYBRIDATTN_WITHOUT_PLAIN_AVX512)
  endif()
endif()
if(HYBRIDATTN_FUZZ)
  # Steps are fuzzed, not instructions: fewer variants of each kernel make half of the build.
  target_compile_definitions(hybridattn_objects PRIVATE HYBRIDATTN_WITHOUT_AVX512)
endif()
file(GLOB kernel_sources ${CMAKE_SOURCE_DIR}/src/cpu/*.cc)
if(NOT HYBRIDATTN_SANITIZE)
  # Sums stay in registers only where the short loops over them are unrolled, which gcc's -O2, that of
  # CMake's RelWithDebInfo, does not do: a third of the speed.
  set_source_files_properties(${kernel_sources} PROPERTIES COMPILE_OPTIONS $<$<NOT:$<CONFIG:Debug>>:-O3>)
endif()
if(HYBRIDATTN_SANITIZE MATCHES address)
  # A kernel is mostly inlined calls on vectors. To poison each one's temporaries and watch them doubles
  # the build and takes most of the tests' time; without optimisation vectors live in memory.
  set_source_files_properties(${kernel_sources} PROPERTIES SKIP_PRECOMPILE_HEADERS ON COMPILE_OPTIONS
                              "-O2;-fno-sanitize-address-use-after-scope")
  if(NOT HYBRIDATTN_FUZZ)
    target_precompile_headers(hybridattn_objects PRIVATE <algorithm> <array> <functional> <memory> <string>
                              <vector> ${CMAKE_SOURCE_DIR}/src/core/context_impl.h)
  endif()
endif()

if(HYBRIDATTN_CUDA)
  include(cuda)
endif()

# add_library_form(FORM TYPE): hybridattn_FORM, whose installed name is hybridattn::FORM.
function(add_library_form form type)
  add_library(hybridattn_${form} ${type} $<TARGET_OBJECTS:hybridattn_objects> ${cuda_objects}
                                   ${highway_objects})
  set_target_properties(hybridattn_${form} PROPERTIES OUTPUT_NAME hybridattn EXPORT_NAME ${form}
                                                      LINKER_LANGUAGE CXX)
  target_include_directories(hybridattn_${form} PUBLIC $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/include>)
  target_compile_features(hybridattn_${form} PUBLIC cxx_std_20)
  target_link_libraries(hybridattn_${form} PUBLIC Threads::Threads)
  if(HYBRIDATTN_CUDA)
    target_link_libraries(hybridattn_${form} PRIVATE CUDA::cudart_static)
  endif()
  if(hwy_FOUND)
    target_link_libraries(hybridattn_${form} PRIVATE hwy::hwy)
  endif()
endfunction()

add_library_form(static STATIC)
target_compile_definitions(hybridattn_static PUBLIC HYBRIDATTN_STATIC)

# Before 1.0 each minor version is an interface of its own.
add_library_form(shared SHARED)
set_target_properties(hybridattn_shared PROPERTIES
                      VERSION ${PROJECT_VERSION}
                      SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR}
                      LINK_DEPENDS ${CMAKE_SOURCE_DIR}/cmake/symbols.map)
target_link_options(hybridattn_shared PRIVATE
                    LINKER:--version-script=${CMAKE_SOURCE_DIR}/cmake/symbols.map)
if(NOT HYBRIDATTN_SANITIZE)  # whose symbols only the program has
  target_link_options(hybridattn_shared PRIVATE LINKER:--no-undefined)
endif()

if(BUILD_SHARED_LIBS)
  set(hybridattn_default_form shared)
else()
  set(hybridattn_default_form static)
endif()
add_library(hybridattn ALIAS hybridattn_${hybridattn_default_form})
add_library(hybridattn::hybridattn ALIAS hybridattn_${hybridattn_default_form})

# The slow forms that tests compare with are not part of what users get.
file(GLOB reference_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/ops/reference/*.cc)
add_library(hybridattn_reference STATIC EXCLUDE_FROM_ALL ${reference_sources})
target_include_directories(hybridattn_reference PRIVATE ${CMAKE_SOURCE_DIR})
target_link_libraries(hybridattn_reference PRIVATE hybridattn_options PUBLIC hybridattn_static)
