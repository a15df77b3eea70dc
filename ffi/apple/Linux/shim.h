#include <shadowllm.h>
