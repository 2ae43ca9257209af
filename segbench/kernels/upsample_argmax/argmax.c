// Labels of upsampled logits. The pixels whose rows share their cells and whose columns share theirs make up a
// block: what its few cells have in common is looked at once, and often nothing is left to do for its pixels.
//
// Why that is exact: weights are not negative, so a class that exceeds another in all cells of a block exceeds it
// on all pixels; and classes equal in all cells go through the same operations and stay equal, the lowest index
// winning. So the first of the largest in every cell, where all cells name the same, is the label.

// Rounded exactly as the kernel of torch rounds, so that classes tie here where they tie there.
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#pragma clang fp reassociate(off)
#elif defined(__GNUC__)
#pragma GCC optimize("no-associative-math", "fp-contract=off")
#endif

#include <math.h>
#include <stdint.h>
#include <string.h>

#define LANES 16
#define VECTORS 2
typedef float Values __attribute__((vector_size(4 * LANES / VECTORS), aligned(4)));
typedef int32_t Numbers __attribute__((vector_size(4 * LANES / VECTORS), aligned(4)));

// One axis, in runs of outputs that are made of the same cells.
typedef struct {
    const int32_t *start;   // (runs + 1) first output
    const int32_t *taps;    // (runs) number of cells
    const int32_t *source;  // (runs, most) cells
    const float *weight;    // (outputs, most)
    int64_t runs, most;     // most: cells of any run
} Axis;

// cells: (count, classes). leader: (count) the first of the largest classes. Returns whether all are finite.
int32_t find_leaders(const float *cells, int64_t count, int64_t classes, int32_t *leader) {
    uint32_t largest_bits = 0;
    for (int64_t cell = 0; cell < count; ++cell, cells += classes) {
        float best[LANES];
        int32_t index[LANES] = {0};
        for (int lane = 0; lane < LANES; ++lane) best[lane] = -INFINITY;
        int64_t k = 0;
        for (; k + LANES <= classes; k += LANES) {
            for (int lane = 0; lane < LANES; ++lane) {
                uint32_t bits;
                memcpy(&bits, cells + k + lane, sizeof bits);
                bits &= 0x7fffffff;
                largest_bits = bits > largest_bits ? bits : largest_bits;
                const int better = cells[k + lane] > best[lane];
                best[lane] = better ? cells[k + lane] : best[lane];
                index[lane] = better ? (int32_t)(k + lane) : index[lane];
            }
        }
        for (int lane = 0; k < classes; ++k, ++lane) {
            uint32_t bits;
            memcpy(&bits, cells + k, sizeof bits);
            bits &= 0x7fffffff;
            largest_bits = bits > largest_bits ? bits : largest_bits;
            if (cells[k] > best[lane]) best[lane] = cells[k], index[lane] = (int32_t)k;
        }
        int first = 0;
        for (int lane = 1; lane < LANES; ++lane)
            if (best[lane] > best[first] || (best[lane] == best[first] && index[lane] < index[first])) first = lane;
        leader[cell] = index[first];
    }
    return largest_bits < 0x7f800000;
}

static float largest(const float *values, int64_t count) {
    float best[LANES];
    for (int lane = 0; lane < LANES; ++lane) best[lane] = values[0];
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (int lane = 0; lane < LANES; ++lane)
            best[lane] = values[i + lane] > best[lane] ? values[i + lane] : best[lane];
    for (; i < count; ++i) best[0] = values[i] > best[0] ? values[i] : best[0];
    for (int lane = 1; lane < LANES; ++lane) best[0] = best[lane] > best[0] ? best[lane] : best[0];
    return best[0];
}

// Lists the classes that can win somewhere in a block: those whose highest cell reaches the lowest cell of every
// other class. corner: the cells of the block. bounds: (2, classes), scratch. Returns how many there are.
static int64_t find_candidates(const float *const *corner, int64_t corners, int64_t classes, float *bounds,
                               int32_t *candidate) {
    float *high = bounds, *low = bounds + classes;
    memcpy(high, corner[0], sizeof(float) * (size_t)classes);
    memcpy(low, corner[0], sizeof(float) * (size_t)classes);
    for (int64_t i = 1; i < corners; ++i) {
        const float *cell = corner[i];
        for (int64_t k = 0; k < classes; ++k) {
            high[k] = cell[k] > high[k] ? cell[k] : high[k];
            low[k] = cell[k] < low[k] ? cell[k] : low[k];
        }
    }
    const float bar = largest(low, classes);
    int64_t count = 0;
    for (int64_t k = 0; k < classes; ++k) {
        candidate[count] = (int32_t)k;
        count += high[k] >= bar;
    }
    return count;
}

static void store(void *labels, int64_t wide, int64_t at, int64_t count, const int32_t *value) {
    if (wide) {
        for (int64_t i = 0; i < count; ++i) ((int64_t *)labels)[at + i] = value[i];
    } else {
        for (int64_t i = 0; i < count; ++i) ((uint8_t *)labels)[at + i] = (uint8_t)value[i];
    }
}

static void fill(void *labels, int64_t wide, int64_t at, int64_t count, int32_t value) {
    if (wide) {
        for (int64_t i = 0; i < count; ++i) ((int64_t *)labels)[at + i] = value;
    } else {
        memset((uint8_t *)labels + at, value, (size_t)count);
    }
}

static inline Numbers choose(Numbers mask, Numbers yes, Numbers no) { return (mask & yes) | (~mask & no); }

// One row of a block. widened: (count, taps, VECTORS) logits of the candidates, not yet interpolated between rows.
static inline void find_winners(const Values *widened, int64_t count, int64_t taps, const float *weight,
                                const int32_t *candidate, Numbers *winner) {
    Values best[VECTORS];
    for (int v = 0; v < VECTORS; ++v) winner[v] = (Numbers){0} + candidate[0];
    for (int64_t i = 0; i < count; ++i, widened += taps * VECTORS) {
        Values value[VECTORS];
        for (int v = 0; v < VECTORS; ++v) value[v] = widened[v] * weight[0];
        for (int64_t t = 1; t < taps; ++t)
            for (int v = 0; v < VECTORS; ++v) value[v] += widened[t * VECTORS + v] * weight[t];
        if (i == 0) memcpy(best, value, sizeof best);
        for (int v = 0; v < VECTORS; ++v) {
            const Numbers better = value[v] > best[v];  // all bits of a lane, or none
            winner[v] = choose(better, (Numbers){0} + candidate[i], winner[v]);
            best[v] = (Values)choose(better, (Numbers)value[v], (Numbers)best[v]);
        }
    }
}

// cells: (h, w, classes), all finite; leader: (h, w) from find_leaders. labels: (outputs of rows, outputs of
// columns), int64 if wide, else uint8. Does the runs `begin` to `end` of the rows.
// scratch: 2·classes + classes·rows.most·LANES floats; candidate: classes + 1 numbers;
// corner: rows.most·columns.most pointers.
void label_rows(const float *cells, int64_t width, int64_t classes, const int32_t *leader, const Axis *rows,
                const Axis *columns, int64_t begin, int64_t end, int64_t wide, void *labels, float *scratch,
                int32_t *candidate, const float **corner) {
    const int64_t out_width = columns->start[columns->runs];
    float *bounds = scratch;
    Values *widened = (Values *)(scratch + 2 * classes);
    for (int64_t r = begin; r < end; ++r) {
        const int32_t *above = rows->source + r * rows->most;
        const int64_t tall = rows->taps[r], top = rows->start[r], bottom = rows->start[r + 1];
        for (int64_t c = 0; c < columns->runs; ++c) {
            const int32_t *beside = columns->source + c * columns->most;
            const int64_t broad = columns->taps[c], left = columns->start[c], right = columns->start[c + 1];

            const int32_t first = leader[above[0] * width + beside[0]];
            int differ = 0;
            for (int64_t t = 0; t < tall; ++t)
                for (int64_t s = 0; s < broad; ++s) {
                    const int64_t cell = above[t] * width + beside[s];
                    differ |= leader[cell] != first;
                    corner[t * broad + s] = cells + cell * classes;
                }
            int64_t count = 1;
            candidate[0] = first;
            if (differ) count = find_candidates(corner, tall * broad, classes, bounds, candidate);
            if (count == 1) {
                for (int64_t y = top; y < bottom; ++y)
                    fill(labels, wide, y * out_width + left, right - left, candidate[0]);
                continue;
            }

            for (int64_t x = left; x < right; x += LANES) {
                const int64_t lanes = right - x < LANES ? right - x : LANES;
                for (int64_t s = 0; s < broad; ++s) {
                    Values weight[VECTORS] = {{0}};
                    for (int64_t lane = 0; lane < lanes; ++lane)
                        ((float *)weight)[lane] = columns->weight[(x + lane) * columns->most + s];
                    for (int64_t i = 0; i < count; ++i)
                        for (int64_t t = 0; t < tall; ++t)
                            for (int v = 0; v < VECTORS; ++v) {
                                Values *sum = widened + (i * tall + t) * VECTORS + v;
                                const Values term = corner[t * broad + s][candidate[i]] * weight[v];
                                *sum = s == 0 ? term : *sum + term;
                            }
                }
                for (int64_t y = top; y < bottom; ++y) {
                    const float *weight = rows->weight + y * rows->most;
                    Numbers winner[VECTORS];
                    if (tall == 1) {  // a constant number of taps makes a loop without branches
                        find_winners(widened, count, 1, weight, candidate, winner);
                    } else if (tall == 2) {
                        find_winners(widened, count, 2, weight, candidate, winner);
                    } else {
                        find_winners(widened, count, tall, weight, candidate, winner);
                    }
                    store(labels, wide, y * out_width + x, lanes, (const int32_t *)winner);
                }
            }
        }
    }
}
