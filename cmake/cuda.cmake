# The CUDA kernels: nvcc's part of the library. Included only where HYBRIDATTN_CUDA is on.
set(CMAKE_CUDA_ARCHITECTURES ${HYBRIDATTN_CUDA_ARCHITECTURES})
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
# CMake 3.25 does not know that nvcc has C++20.
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()

# add_cuda_objects(NAME ARCHITECTURES SOURCES...)
function(add_cuda_objects name architectures)
  add_library(${name} OBJECT ${ARGN})
  set_target_properties(${name} PROPERTIES CUDA_ARCHITECTURES "${architectures}")
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR})
  target_compile_definitions(${name} PRIVATE HYBRIDATTN_BUILDING)
  target_link_libraries(${name} PUBLIC hybridattn_headers CUDA::cudart_static)
  # 2810 takes the assignment of a nodiscard class for a discarded value.
  # Registers that spill go to memory and cost more than most things a kernel does.
  target_compile_options(
    ${name}
    PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr;-diag-suppress=2810;-Xptxas=--warn-on-spills,--warn-on-local-memory-usage>"
            $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wshadow>)
  if(HYBRIDATTN_WERROR)
    target_compile_options(${name} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings>)
  endif()
endfunction()

file(GLOB_RECURSE cuda_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/cuda/*.cu
                                                 ${CMAKE_SOURCE_DIR}/src/cuda/*.cc)
# The instructions of sm_90a are its own: these files are for it alone, and left out where it is not asked for.
set(sm90_sources ${cuda_sources})
list(FILTER sm90_sources INCLUDE REGEX "/cuda/sm90/")
list(FILTER cuda_sources EXCLUDE REGEX "/cuda/sm90/")
set(sm90_architectures ${HYBRIDATTN_CUDA_ARCHITECTURES})
list(FILTER sm90_architectures INCLUDE REGEX "^90a")

add_cuda_objects(hybridattn_cuda_objects "${HYBRIDATTN_CUDA_ARCHITECTURES}" ${cuda_sources})
set(cuda_objects $<TARGET_OBJECTS:hybridattn_cuda_objects>)
add_custom_target(cuda_kernels)  # all of them and nothing else
add_dependencies(cuda_kernels hybridattn_cuda_objects)
if(sm90_architectures)
  add_cuda_objects(hybridattn_cuda_sm90_objects "${sm90_architectures}" ${sm90_sources})
  target_compile_definitions(hybridattn_cuda_sm90_objects
                             PRIVATE $<$<BOOL:${HYBRIDATTN_CUDA_RACECHECK}>:HYBRIDATTN_CUDA_RACECHECK>)
  target_compile_definitions(hybridattn_cuda_objects PRIVATE HYBRIDATTN_CUDA_SM90)
  list(APPEND cuda_objects $<TARGET_OBJECTS:hybridattn_cuda_sm90_objects>)
  add_dependencies(cuda_kernels hybridattn_cuda_sm90_objects)
endif()
target_compile_definitions(hybridattn_objects PRIVATE HYBRIDATTN_CUDA)
# The header alone: the library is looked for at run time, by the first product that wants it.
find_path(HYBRIDATTN_CUBLASLT_INCLUDE cublasLt.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
if(HYBRIDATTN_CUBLASLT_INCLUDE)
  set_source_files_properties(${CMAKE_SOURCE_DIR}/src/cuda/cublas_lt.cc PROPERTIES
                              COMPILE_DEFINITIONS HYBRIDATTN_CUBLASLT
                              INCLUDE_DIRECTORIES ${HYBRIDATTN_CUBLASLT_INCLUDE})
endif()
