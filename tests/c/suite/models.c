/* Models: every way to load one, refusals, progress, references. */
#include "suite.h"

#include <unistd.h>

static int32_t count_progress(void *user, uint64_t done, uint64_t total) {
    uint64_t *seen = user;
    CHECK(done <= total && done >= seen[1] && total == info.image_bytes);
    seen[0]++;
    seen[1] = done;
    return 0;
}

static int32_t stop_halfway(void *user, uint64_t done, uint64_t total) {
    (void)user;
    return done > total / 2;
}

static void loading(void) {
    sllm_load_options options;
    uint64_t seen[2] = {0, 0};
    sllm_model *other = NULL;
    OK(sllm_load_options_defaults(&options, sizeof options));
    options.progress = count_progress;
    options.progress_user = seen;
    options.verify = 1;
    OK(sllm_model_open(model_path, &options, &other));
    CHECK(seen[0] >= 2 && seen[1] == info.image_bytes);
    OK(sllm_model_free(&other));
    options.verify = 0;
    options.preload = 1;
    seen[1] = 0;
    OK(sllm_model_open_memory(image, image_size, &options, &other));
    OK(sllm_model_free(&other));
    options.progress = stop_halfway;
    STATUS(SLLM_STATUS_CANCELLED, sllm_model_open(model_path, &options, &other));
    CHECK(other == NULL);
    options.preload = 2;
    INVALID(sllm_model_open(model_path, &options, &other));
    options.preload = 0;
    options.reserved = 1;
    INVALID(sllm_model_open(model_path, &options, &other));
    CHECK(other == NULL);
}

/* An image inside a larger file, as in an Android package. */
static void descriptors(void) {
    FILE *file = tmpfile();
    int fd = file ? fileno(file) : -1;
    sllm_model *other = NULL;
    sllm_model_info found = {0};
    uint64_t offset;
    CHECK(fd >= 0);
    for (offset = 0; offset <= 8; offset += 4) {
        CHECK(pwrite(fd, image, image_size, (off_t)offset) == (ssize_t)image_size);
        OK(sllm_model_open_fd(fd, offset, offset == 8 ? 0 : image_size, NULL, &other));
        found.struct_size = sizeof found;
        OK(sllm_model_get_info(other, &found));
        CHECK(found.image_bytes == image_size && found.vocab == info.vocab);
        OK(sllm_model_free(&other));
    }
    INVALID(sllm_model_open_fd(-1, 0, 0, NULL, &other));
    STATUS(SLLM_STATUS_IO, sllm_model_open_fd(999, 0, 0, NULL, &other));
    STATUS(SLLM_STATUS_BAD_IMAGE, sllm_model_open_fd(fd, 4, image_size, NULL, &other));
    STATUS(SLLM_STATUS_BAD_IMAGE, sllm_model_open_fd(fd, 8, image_size + 1, NULL, &other));
    STATUS(SLLM_STATUS_BAD_IMAGE, sllm_model_open_fd(fd, UINT64_MAX, UINT64_MAX, NULL, &other));
    CHECK(pwrite(fd, image, image_size, 9) == (ssize_t)image_size);
    INVALID(sllm_model_open_fd(fd, 9, 0, NULL, &other)); /* not aligned */
    CHECK(other == NULL);
    if (file) fclose(file);
}

static void refused(void) {
    sllm_model *other = NULL;
    unsigned char *copy = malloc(image_size);
    sllm_load_options options;
    size_t size;
    STATUS(SLLM_STATUS_IO, sllm_model_open("/nowhere/at/all.sllm", NULL, &other));
    CHECK(strstr(sllm_last_error_message(), "/nowhere/at/all.sllm") != NULL);
    STATUS(SLLM_STATUS_BAD_IMAGE, sllm_model_open("/", NULL, &other));
    STATUS(SLLM_STATUS_BAD_IMAGE, sllm_model_open("/dev/null", NULL, &other));
    STATUS(SLLM_STATUS_BAD_IMAGE, sllm_model_open(__FILE__, NULL, &other));
    for (size = 0; size < image_size; size += image_size / 50 + 1) {
        memcpy(copy, image, size);
        STATUS(SLLM_STATUS_BAD_IMAGE, sllm_model_open_memory(copy, size, NULL, &other));
    }
    memcpy(copy, image, image_size);
    copy[30] ^= 1;
    STATUS(SLLM_STATUS_BAD_IMAGE, sllm_model_open_memory(copy, image_size, NULL, &other));
    copy[30] ^= 1;
    copy[image_size - 1] ^= 1;
    OK(sllm_load_options_defaults(&options, sizeof options));
    options.verify = 1;
    STATUS(SLLM_STATUS_BAD_IMAGE, sllm_model_open_memory(copy, image_size, &options, &other));
    CHECK(other == NULL);
    free(copy);
}

static void references(void) {
    sllm_model *one = NULL, *two;
    sllm_session *session = NULL;
    uint32_t prompt[] = {1, 2, 3};
    int32_t end = 7;
    OK(sllm_model_open_memory(image, image_size, NULL, &one));
    OK(sllm_session_new(one, NULL, &session));
    two = one;
    OK(sllm_model_retain(one));
    OK(sllm_model_free(&one));
    CHECK(one == NULL);
    OK(sllm_model_free(&one));
    OK(sllm_model_is_end(two, 5, &end));
    CHECK(end == 0 || end == 1);
    end = 7;
    STATUS(SLLM_STATUS_TOKEN_OUT_OF_RANGE, sllm_model_is_end(two, info.vocab, &end));
    CHECK(end == 7);
    OK(sllm_model_free(&two));
    OK(sllm_session_prefill(session, prompt, 3));
    OK(sllm_session_free(&session));
    OK(sllm_session_free(&session));
}

void test_models(void) {
    int32_t code;
    for (code = 0; code <= SLLM_STATUS_INTERNAL; code++) CHECK(strncmp(sllm_status_name(code), "SLLM_STATUS_", 12) == 0);
    CHECK(strcmp(sllm_status_name(-1), "unknown") == 0 && sllm_status_message(99)[0] != 0);
    CHECK(info.vocab > 100 && info.layers > 0 && info.has_tokenizer == 1 && info.has_chat_template == 0);
    CHECK(info.isa != NULL && info.image_bytes == image_size && info.bytes_per_token > 0);
    loading();
    descriptors();
    refused();
    references();
}
