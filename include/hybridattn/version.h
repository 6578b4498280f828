// The version of the library, as numbers and as text.
#pragma once

#include "hybridattn/export.h"

#define HYBRIDATTN_VERSION_MAJOR 0
#define HYBRIDATTN_VERSION_MINOR 1
#define HYBRIDATTN_VERSION_PATCH 0

namespace hybridattn {

/// "major.minor.patch" of the library that is linked, which may differ from the header's.
HYBRIDATTN_API const char* version() noexcept;

}  // namespace hybridattn
