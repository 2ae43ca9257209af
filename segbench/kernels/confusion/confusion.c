// Counts pairs of true and predicted class.

#include <stdint.h>
#include <string.h>

#define BLOCK 16384  // pixels that stay in the first cache from the look at their range to their count

// tables: (2, classes + 1, classes) zeros, scratch: rows truth, the last for ignored pixels.
// counts: (classes, classes), the result, unless a value is not a valid class id, where counting stops.
// highest: (2), the result: largest label met, and largest target that is not ignored.
void count_pairs(const uint8_t *labels, const uint8_t *targets, int64_t pixels, int64_t classes,
                 int64_t ignore_index, uint32_t *tables, int64_t *counts, int32_t *highest) {
    const int64_t size = (classes + 1) * classes;
    int32_t row[256];
    for (int64_t t = 0; t < 256; ++t) row[t] = (int32_t)((t == ignore_index ? classes : t) * classes);
    highest[0] = highest[1] = 0;

    for (int64_t start = 0; start < pixels; start += BLOCK) {
        const uint8_t *l = labels + start, *t = targets + start;
        const int64_t count = pixels - start < BLOCK ? pixels - start : BLOCK;
        uint8_t label = 0, target = 0;
        for (int64_t i = 0; i < count; ++i) {
            const uint8_t counted = t[i] == ignore_index ? 0 : t[i];
            label = l[i] > label ? l[i] : label;
            target = counted > target ? counted : target;
        }
        if (label > highest[0]) highest[0] = label;
        if (target > highest[1]) highest[1] = target;
        if (label >= classes || target >= classes) return;

        // Neighbours mostly agree. Adding each to the same count would wait for the sum before it: eight that
        // agree are added at once, the others in turn to one table and the other.
        int64_t i = 0;
        for (; i + 8 <= count; i += 8) {
            const uint64_t ones = 0x0101010101010101;
            uint64_t ls, ts;
            memcpy(&ls, l + i, 8);
            memcpy(&ts, t + i, 8);
            if (ls == (ls & 255) * ones && ts == (ts & 255) * ones) {
                tables[row[ts & 255] + (ls & 255)] += 8;
            } else {
                for (int j = 0; j < 8; ++j) ++tables[size * (j & 1) + row[t[i + j]] + l[i + j]];
            }
        }
        for (; i < count; ++i) ++tables[row[t[i]] + l[i]];
    }
    for (int64_t i = 0; i < classes * classes; ++i) counts[i] = (int64_t)tables[i] + tables[size + i];
}
