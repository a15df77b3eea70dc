/* Shared by the parts of the suite: checks that print where they failed and continue, and models. */
#ifndef SUITE_H
#define SUITE_H

#include <shadowllm.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Failed checks, from any thread. */
extern _Atomic int failures;
/* A small calibrated model with a tokenizer, and its image in memory; the same model with a chat template and not
 * calibrated; a model that is calibrated for all policies. */
extern const char *model_path, *chat_path, *story_path;
extern sllm_model *model;
extern unsigned char *image;
extern size_t image_size;
extern sllm_model_info info;

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                            \
            failures++;                                                                                                \
        }                                                                                                              \
    } while (0)

/* The call returns this status, and a failure leaves a message. */
#define STATUS(wanted, call)                                                                                           \
    do {                                                                                                               \
        int32_t got_ = (call);                                                                                         \
        if (got_ != (wanted)) {                                                                                        \
            fprintf(stderr, "%s:%d: %s: %s instead of %s (%s)\n", __FILE__, __LINE__, #call, sllm_status_name(got_),   \
                    sllm_status_name(wanted), got_ ? sllm_last_error_message() : "");                                  \
            failures++;                                                                                                \
        } else if (got_ != SLLM_STATUS_OK && sllm_last_error_message()[0] == 0) {                                      \
            fprintf(stderr, "%s:%d: %s: no message\n", __FILE__, __LINE__, #call);                                     \
            failures++;                                                                                                \
        }                                                                                                              \
    } while (0)

#define OK(call) STATUS(SLLM_STATUS_OK, call)
#define INVALID(call) STATUS(SLLM_STATUS_INVALID_ARGUMENT, call)

/* A session of a short context. */
sllm_session *short_session(uint32_t context, uint32_t threads);
/* Reads a prompt and decodes `n` of the likeliest tokens; returns the last one. */
uint32_t decode_greedily(sllm_session *session, const uint32_t *prompt, size_t count, uint32_t *out, size_t n);
/* Bytes of anonymous memory that the process holds. */
size_t resident(void);
/* Seconds since an arbitrary moment. */
double seconds(void);

void test_models(void);
void test_structs(void);
void test_sessions(void);
void test_sparsity(void);
void test_options(void);
void test_states(void);
void test_text(void);
void test_chat(void);
void test_nulls(void);
void test_memory(void);
void test_threads(void);
void test_cycles(void);
void test_panics(void);
void test_cancel(const char *large_path);

#endif
