/* shadowllm: on-device LLM inference. The C interface is growing; so far it tells versions.
 *
 *     if (sllm_version() / 1000 != SLLM_VERSION / 1000) return 1;  // header and library differ
 */
#ifndef SHADOWLLM_H
#define SHADOWLLM_H

#include <stdint.h>

#define SLLM_VERSION_MAJOR 0
#define SLLM_VERSION_MINOR 1
#define SLLM_VERSION_PATCH 0
#define SLLM_VERSION (SLLM_VERSION_MAJOR * 1000000 + SLLM_VERSION_MINOR * 1000 + SLLM_VERSION_PATCH)

#ifdef __cplusplus
extern "C" {
#endif

/* Version of the library: major * 1000000 + minor * 1000 + patch. */
uint32_t sllm_version(void);

/* The newest image format the library reads. */
uint32_t sllm_image_version(void);

#ifdef __cplusplus
}
#endif

#endif
