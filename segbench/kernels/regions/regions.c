// Regions between walls, and the pixels that belong to none: see segbench/postprocess.

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

// Which neighbour is nearest may depend on the last bit, so sums keep the order in which they are written.
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

// A set of pixels as bits, so that it can be walked in raster order, forwards and backwards, while it grows.
static void insert(uint64_t *set, int64_t i) { set[i >> 6] |= UINT64_C(1) << (i & 63); }

static void erase(uint64_t *set, int64_t i) { set[i >> 6] &= ~(UINT64_C(1) << (i & 63)); }

// The first member from i on, -1 where there is none below pixels.
static int64_t at_or_after(const uint64_t *set, int64_t i, int64_t pixels) {
    if (i >= pixels) return -1;
    int64_t word = i >> 6;
    const int64_t last = (pixels - 1) >> 6;
    uint64_t bits = set[word] & (~UINT64_C(0) << (i & 63));
    while (!bits && word < last) bits = set[++word];
    return bits ? (word << 6) + __builtin_ctzll(bits) : -1;
}

// The last member up to i, -1 where there is none.
static int64_t at_or_before(const uint64_t *set, int64_t i) {
    if (i < 0) return -1;
    int64_t word = i >> 6;
    uint64_t bits = set[word] & (~UINT64_C(0) >> (63 - (i & 63)));
    while (!bits && word) bits = set[--word];
    return bits ? (word << 6) + 63 - __builtin_clzll(bits) : -1;
}

// The neighbours below, above, right and left, in this order; -1 outside of the image.
static void around(int64_t i, int64_t height, int64_t width, int64_t *neighbours) {
    const int64_t y = i / width, x = i - y * width;
    neighbours[0] = y + 1 < height ? i + width : -1;
    neighbours[1] = y ? i - width : -1;
    neighbours[2] = x + 1 < width ? i + 1 : -1;
    neighbours[3] = x ? i - 1 : -1;
}

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
    for (int64_t i = 0; i < pixels; ++i) loose += regions[i] < 0;

    int status = NO_MEMORY;
    double *stats = calloc(masks * classes, sizeof *stats), *unit = calloc(masks * classes, sizeof *unit);
    double *vectors = malloc((loose + 1) * classes * sizeof *vectors);
    double *patience = malloc((loose + 1) * sizeof *patience);
    uint64_t *active = calloc((pixels >> 6) + 1, sizeof *active);
    if (!stats || !unit || !vectors || !patience || !active) goto end;

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

    int64_t waiting = 0, neighbours[4];
    for (int64_t i = 0; i < pixels; ++i) {
        mapping[i] = regions[i];
        if (regions[i] >= 0) {
            if (!(unit[(int64_t)regions[i] * classes] >= 0)) goto end;  // 0/0: all of the region is 0
            continue;
        }
        double *vector = vectors + waiting * classes, sum = 0;
        for (int64_t k = 0; k < classes; ++k) sum += vector[k] = probabilities[k * pixels + i];
        if (!(sum > 0)) goto end;
        const int64_t best = largest(vector, classes);
        if (vector[best] >= promote[best]) {
            mapping[i] = num_regions + best;
            continue;
        }
        normalize(vector, classes, vector);
        patience[waiting] = 1;
        mapping[i] = -1 - waiting++;  // the row of its vector
    }
    status = NO_SEED;
    if (waiting == pixels) goto end;

    // The article's two stacks hold all that wait, and are emptied by turns into each other: that goes through
    // them in raster order, first backwards, then forwards. Only those beside a mask can change anything.
    for (int64_t i = 0; i < pixels; ++i) {
        if (mapping[i] >= 0) continue;
        around(i, height, width, neighbours);
        for (int n = 0; n < 4; ++n)
            if (neighbours[n] >= 0 && mapping[neighbours[n]] >= 0) insert(active, i);
    }
    for (int backwards = 1; waiting; backwards = !backwards) {
        int64_t i = backwards ? at_or_before(active, pixels - 1) : at_or_after(active, 0, pixels);
        for (; i >= 0; i = backwards ? at_or_before(active, i - 1) : at_or_after(active, i + 1, pixels)) {
            const int64_t row = -1 - mapping[i];
            const double *vector = vectors + row * classes;
            double nearest = INFINITY;
            int32_t chosen = -1;
            around(i, height, width, neighbours);
            for (int n = 0; n < 4; ++n) {
                if (neighbours[n] < 0 || mapping[neighbours[n]] < 0) continue;
                const int32_t mask = mapping[neighbours[n]];
                const double d = mask == chosen ? nearest : distance(vector, unit + (int64_t)mask * classes, classes);
                if (d < nearest) nearest = d, chosen = mask;
            }
            if (!(nearest < join * patience[row])) {
                patience[row] *= impatience;
                continue;
            }
            mapping[i] = chosen;
            --waiting;
            if (chosen < num_regions) {
                double *sums = stats + (int64_t)chosen * classes;
                for (int64_t k = 0; k < classes; ++k) sums[k] += probabilities[k * pixels + i];
                normalize(sums, classes, unit + (int64_t)chosen * classes);
            }
            erase(active, i);
            for (int n = 0; n < 4; ++n)  // those ahead still have their turn, those behind have it in the second sweep
                if (neighbours[n] >= 0 && mapping[neighbours[n]] < 0) insert(active, neighbours[n]);
        }
    }
    for (int64_t i = 0; i < pixels; ++i) labels[i] = largest(stats + (int64_t)mapping[i] * classes, classes);
    status = DONE;
end:
    free(stats), free(unit), free(vectors), free(patience), free(active);
    return status;
}
