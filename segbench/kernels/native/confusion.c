// Counts pairs of true and predicted class.

#include <stddef.h>
#include <stdint.h>

// counts: (classes, classes), rows truth, added to. Returns 0, or 1 + the index of the first pixel whose
// label or target is no class.
int64_t count_confusion(const uint8_t *labels, const uint8_t *targets, int64_t pixels, int32_t classes,
                        int32_t ignore_index, int64_t *counts) {
    for (int64_t i = 0; i < pixels; ++i) {
        const int32_t label = labels[i], target = targets[i];
        if (label >= classes || (target >= classes && target != ignore_index)) return i + 1;
        if (target != ignore_index) ++counts[target * classes + label];
    }
    return 0;
}
