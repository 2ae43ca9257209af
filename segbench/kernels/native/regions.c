// Regions between walls, and the pixels that belong to none: see segbench/postprocess.

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

// Which neighbour is nearest may hang on the last bit, so sums keep the order in which they are written.
#if defined(__clang__)
#pragma clang fp contract(off) reassociate(off)
#elif defined(__GNUC__)
#pragma GCC optimize("no-associative-math", "fp-contract=off")
#endif

static int32_t root_of(int32_t *parent, int32_t i) {
    while (parent[i] != i) i = parent[i] = parent[parent[i]];
    return i;
}

static void join_sets(int32_t *parent, int32_t a, int32_t b) {
    a = root_of(parent, a);
    b = root_of(parent, b);
    if (a < b) parent[b] = a;  // the first pixel in raster order stays the root
    else parent[a] = b;
}

// walls: (height, width) 0 or 1. ids: (height, width), receives the region of each pixel, -1 where it has fewer
// than min_size. Returns the number of regions, -1 where memory is short.
int64_t label_regions(const uint8_t *walls, int64_t height, int64_t width, int64_t min_size, int32_t *ids) {
    const int64_t pixels = height * width;
    int32_t *size = calloc(pixels, sizeof *size);
    if (!size) return -1;
    for (int64_t y = 0, i = 0; y < height; ++y)
        for (int64_t x = 0; x < width; ++x, ++i) {
            ids[i] = i;
            if (x && !(walls[i] & walls[i - 1])) join_sets(ids, i - 1, i);
            if (y && !(walls[i] & walls[i - width])) join_sets(ids, i - width, i);
        }
    for (int64_t i = 0; i < pixels; ++i) ++size[ids[i] = ids[ids[i]]];  // parents come before their children
    int32_t count = 0;
    for (int64_t i = 0; i < pixels; ++i) {
        if (ids[i] == i) size[i] = size[i] >= min_size ? count++ : -1;  // a root: its size becomes its number
        ids[i] = size[ids[i]];
    }
    free(size);
    return count;
}

typedef struct {
    int32_t pixel, row;  // row: of its vector
    double patience;
} Waiting;

static void normalize(const double *vector, int64_t classes, double *unit) {
    double sum = 0;
    for (int64_t k = 0; k < classes; ++k) sum += vector[k];
    for (int64_t k = 0; k < classes; ++k) unit[k] = vector[k] / sum;
}

static double distance(const double *a, const double *b, int64_t classes) {
    double sum = 0;
    for (int64_t k = 0; k < classes; ++k) sum += fabs(a[k] - b[k]);
    return sum;
}

static int64_t largest(const double *vector, int64_t classes) {
    int64_t best = 0;
    for (int64_t k = 1; k < classes; ++k)
        if (vector[k] > vector[best]) best = k;
    return best;
}

enum { DONE = 0, NOT_A_PROBABILITY = 1, NO_MEMORY = 2, NO_SEED = 3 };

// probabilities: (classes, height, width). regions: (height, width) ids below num_regions, or -1.
// promote: (classes,). mapping: (height, width), receives the region of each pixel, num_regions + k for those
// promoted to class k. labels: (height, width), receives classes. Returns one of the above.
int dust_fill(const float *probabilities, int64_t classes, int64_t height, int64_t width, const int32_t *regions,
              int64_t num_regions, const double *promote, double join, double impatience, int32_t *mapping,
              int64_t *labels) {
    const int64_t pixels = height * width, masks = num_regions + classes;
    int64_t loose = 0;
    for (int64_t i = 0; i < pixels; ++i) loose += (mapping[i] = regions[i]) < 0;

    int status = NO_MEMORY;
    double *stats = calloc(masks * classes, sizeof *stats), *unit = calloc(masks * classes, sizeof *unit);
    double *vectors = malloc((loose + 1) * classes * sizeof *vectors);
    Waiting *now = malloc((loose + 1) * sizeof *now), *next = malloc((loose + 1) * sizeof *next);
    if (!stats || !unit || !vectors || !now || !next) goto end;

    status = NOT_A_PROBABILITY;
    for (int64_t k = 0; k < classes; ++k) {  // sums in raster order, kept in a register along each run
        const float *plane = probabilities + k * pixels;
        int32_t region = -1;
        double sum = 0;
        for (int64_t i = 0; i < pixels; ++i) {
            if (!(plane[i] >= 0 && plane[i] <= 1e30f)) goto end;
            if (regions[i] != region) {
                if (region >= 0) stats[region * classes + k] = sum;
                region = regions[i];
                if (region >= 0) sum = stats[region * classes + k];
            }
            sum += plane[i];
        }
        if (region >= 0) stats[region * classes + k] = sum;
        stats[(num_regions + k) * classes + k] = 1;
    }
    for (int64_t m = 0; m < masks; ++m) normalize(stats + m * classes, classes, unit + m * classes);

    int64_t waiting = 0, seeds = 0;
    for (int64_t i = 0; i < pixels; ++i) {
        if (mapping[i] >= 0) { ++seeds; continue; }
        double *vector = vectors + waiting * classes, sum = 0;
        for (int64_t k = 0; k < classes; ++k) sum += vector[k] = probabilities[k * pixels + i];
        if (!(sum > 0)) goto end;
        const int64_t best = largest(vector, classes);
        if (vector[best] >= promote[best]) {
            mapping[i] = num_regions + best;
            ++seeds;
            continue;
        }
        normalize(vector, classes, vector);
        now[waiting] = (Waiting){i, waiting, 1};
        ++waiting;
    }
    status = NO_SEED;
    if (!seeds) goto end;

    while (waiting) {
        int64_t left = 0;
        while (waiting) {
            Waiting one = now[--waiting];
            const int64_t i = one.pixel, y = i / width, x = i - y * width;
            const int64_t neighbours[4] = {y + 1 < height ? i + width : -1, y ? i - width : -1,
                                           x + 1 < width ? i + 1 : -1, x ? i - 1 : -1};
            const double *vector = vectors + one.row * classes;
            double nearest = INFINITY;
            int32_t chosen = -1;
            for (int n = 0; n < 4; ++n) {
                if (neighbours[n] < 0 || mapping[neighbours[n]] < 0) continue;
                const int32_t mask = mapping[neighbours[n]];
                const double d = mask == chosen ? nearest : distance(vector, unit + (int64_t)mask * classes, classes);
                if (d < nearest) nearest = d, chosen = mask;
            }
            if (chosen >= 0 && nearest < join * one.patience) {
                mapping[i] = chosen;
                if (chosen < num_regions) {
                    double *sums = stats + (int64_t)chosen * classes;
                    for (int64_t k = 0; k < classes; ++k) sums[k] += probabilities[k * pixels + i];
                    normalize(sums, classes, unit + (int64_t)chosen * classes);
                }
                continue;
            }
            if (chosen >= 0) one.patience *= impatience;
            next[left++] = one;
        }
        Waiting *swap = now;
        now = next, next = swap, waiting = left;
    }
    for (int64_t i = 0; i < pixels; ++i) labels[i] = largest(stats + mapping[i] * classes, classes);
    status = DONE;
end:
    free(stats), free(unit), free(vectors), free(now), free(next);
    return status;
}
