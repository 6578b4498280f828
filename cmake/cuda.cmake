# The CUDA kernels: nvcc's part of the library. Included only where HYBRIDATTN_CUDA is on.
set(CMAKE_CUDA_ARCHITECTURES ${HYBRIDATTN_CUDA_ARCHITECTURES})
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
# CMake 3.25 does not know that nvcc has C++20.
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()

file(GLOB_RECURSE cuda_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/cuda/*.cu
                                                 ${CMAKE_SOURCE_DIR}/src/cuda/*.cc)
add_library(hybridattn_cuda_objects OBJECT ${cuda_sources})
target_include_directories(hybridattn_cuda_objects PRIVATE ${CMAKE_SOURCE_DIR})
target_compile_definitions(hybridattn_cuda_objects
                           PRIVATE HYBRIDATTN_BUILDING
                                   $<$<BOOL:${HYBRIDATTN_CUDA_RACECHECK}>:HYBRIDATTN_CUDA_RACECHECK>)
target_link_libraries(hybridattn_cuda_objects PUBLIC hybridattn_headers CUDA::cudart_static)
# 2810 takes the assignment of a nodiscard class for a discarded value.
# Registers that spill go to memory and cost more than most things a kernel does.
target_compile_options(
  hybridattn_cuda_objects
  PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr;-diag-suppress=2810;-Xptxas=--warn-on-spills,--warn-on-local-memory-usage>"
          $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wshadow>)
if(HYBRIDATTN_WERROR)
  target_compile_options(hybridattn_cuda_objects
                         PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings>)
endif()
target_compile_definitions(hybridattn_objects PRIVATE HYBRIDATTN_CUDA)
