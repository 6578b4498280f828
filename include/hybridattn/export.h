// The export macro: marks what a shared build of the library makes visible.
#pragma once

#if defined(HYBRIDATTN_STATIC)
#define HYBRIDATTN_API
#elif defined(_WIN32)
#if defined(HYBRIDATTN_BUILDING)
#define HYBRIDATTN_API __declspec(dllexport)
#else
#define HYBRIDATTN_API __declspec(dllimport)
#endif
#else
#define HYBRIDATTN_API __attribute__((visibility("default")))
#endif
