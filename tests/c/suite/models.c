/* Models: every way to load one, refusals, progress, references. */
#include "suite.h"

#include <sys/stat.h>
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
    options.in_memory = 2;
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

/* Changes of the file have no effect on a model that is in memory. */
static void in_memory(void) {
    static const uint32_t prompt[] = {1, 2, 3};
    char path[] = "/tmp/shadowllm-suite-XXXXXX";
    int fd = mkstemp(path);
    sllm_model *other = NULL;
    sllm_session *session = short_session(16, 1);
    sllm_load_options load;
    sllm_session_options options;
    uint32_t expected[6], found[6];
    CHECK(fd >= 0 && write(fd, image, image_size) == (ssize_t)image_size);
    decode_greedily(session, prompt, 3, expected, 6);
    OK(sllm_session_free(&session));
    OK(sllm_load_options_defaults(&load, sizeof load));
    load.in_memory = 1;
    OK(sllm_model_open(path, &load, &other));
    CHECK(ftruncate(fd, 0) == 0);
    OK(sllm_session_options_defaults(&options, sizeof options));
    options.context = 16;
    options.threads = 1;
    OK(sllm_session_new(other, &options, &session));
    decode_greedily(session, prompt, 3, found, 6);
    CHECK(memcmp(expected, found, sizeof found) == 0);
    OK(sllm_session_free(&session));
    options.memory_budget = 1000;
    INVALID(sllm_session_new(other, &options, &session)); /* its pages are not the library's to free */
    OK(sllm_model_free(&other));
    /* A budget for an open file that was deleted. */
    CHECK(pwrite(fd, image, image_size, 0) == (ssize_t)image_size && unlink(path) == 0);
    OK(sllm_model_open_fd(fd, 0, 0, NULL, &other));
    OK(sllm_session_new(other, &options, &session));
    decode_greedily(session, prompt, 3, found, 6);
    CHECK(memcmp(expected, found, sizeof found) == 0);
    OK(sllm_session_free(&session));
    OK(sllm_model_free(&other));
    close(fd);
}

/* Opening a pipe would wait for a writer, so a pipe is refused first. */
static void pipes(void) {
    char path[] = "/tmp/shadowllm-suite-XXXXXX";
    sllm_model *other = NULL;
    int fd = mkstemp(path);
    CHECK(fd >= 0 && close(fd) == 0 && unlink(path) == 0 && mkfifo(path, 0600) == 0);
    alarm(60);
    STATUS(SLLM_STATUS_BAD_IMAGE, sllm_model_open(path, NULL, &other));
    alarm(0);
    CHECK(other == NULL && unlink(path) == 0);
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
    CHECK(info.most_context >= info.trained_context && info.most_context <= 67108864);
    loading();
    descriptors();
    in_memory();
    pipes();
    refused();
    references();
}
