// Cross-entropy of bilinearly upsampled logits, and its gradient, without the upsampled logits.
//
// Between two columns of cells the logits of a row are linear in x, hence their exponentials a geometric
// sequence: a run of pixels costs each class two exponentials, where it starts and from pixel to pixel, and one
// multiplication a pixel. Its gradient is a polynomial in the same ratio. Lanes of a vector are different runs,
// and classes follow one another, so that sums over classes and over pixels both stay within a lane.
//
// All is in base 2, and less the largest logit of each cell, which no softmax minds; every exponential is then
// at most 1 and needs no look for the largest. Where one could underflow (neighbours that disagree by 69 nats,
// or nan), the pixels are computed one by one instead, less their own largest logit.

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
#define LONGEST 8       // pixels of a run: their sums over the classes have to fit into registers
#define TOGETHER 2      // classes worked on at once, so that none waits for its own last result
#define TAME (-100.0f)  // logits to base 2 above which products of three exponentials stay normal
#define FLOOR (-1e30f)  // logits of classes that were masked out: small, and differences stay finite
#define LN2 0.693147180559945f

typedef float vec __attribute__((vector_size(4 * LANES), may_alias));
typedef float loose __attribute__((vector_size(4 * LANES), may_alias, aligned(4)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), may_alias));
#define INLINE static inline __attribute__((always_inline))

// One axis as runs of pixels at equal distances between the same two cells.
struct axis {
    const int32_t *lower, *upper;  // cells on either side
    const int32_t *first, *count;  // pixels
    const float *share;            // of the upper cell in the first pixel
    int64_t runs;                  // of columns: a multiple of 16, the last ones empty
    int64_t longest;               // of columns: at most LONGEST
    float step;                    // by which the share grows from pixel to pixel
};

struct problem {
    const float *logits;        // (B, K, h, w)
    const void *target;         // (B, H, W) of integers
    const float *weight;        // (K,)
    const float *pixel_weight;  // (B, H, W), or null for ones
    float *gradient;            // (B, K, h, w) of zeros, or null
    float *seam;                // (B, K, parts, w): what each part adds to the last row it touches
    int64_t classes, height, width, out_height, out_width, ignore_index;
    int64_t label_bytes;      // negative if signed
    int64_t parts, row_runs;  // of an image, of a part
    float smoothing, clip;    // clip is infinite for none
    struct axis rows, columns;
};

// Sums of one row of cells, (K, w) each: of gradients that belong to a cell, and to the cell to the right of it.
struct row_of_cells {
    float *left, *right;
};

struct sums {
    double cost, weight;
    int64_t strange, is_strange;  // a label that is not a valid class id
};

// What is known of one class in one block of LANES runs.
struct class_block {
    // At the first pixel, and from pixel to pixel: value in the row of the lower cells, and difference to the
    // row of the upper ones.
    vec start, start_rise, slope, slope_rise;
    // Gradient of the pixels, and times the place in the run; then both times the share of the upper row.
    vec grad, grad_place, upper_grad, upper_grad_place;
    vec first, ratio;  // of the exponentials in the row at hand
};

// What is known of the row of pixels at hand in one block.
struct row_block {
    vec mass[LONGEST];      // sum of the exponentials over the classes
    vec log_mass[LONGEST];  // true logarithm to base 2, of mass times what was taken out of it
    vec factor[LONGEST];    // cost's derivative by log_mass in nats, later divided by mass
    vec even_start, even_slope;  // sum over the classes of weight times logit
};

// Replaces `n` vectors by their exponentials to base 2. Step by step for all of them: each step waits several
// cycles for the one before, and fills that time with the other vectors.
INLINE void exp2_each(int n, vec *x) {
    static const float coefficients[] = {1.0f, 0.693147203f, 0.240226479f, 0.05550332163f,
                                         0.009618438601f, 0.001339900357f, 0.0001535325811f};
    vec power[2 * TOGETHER];
    ivec bits[2 * TOGETHER];
    for (int i = 0; i < n; ++i) bits[i] = (ivec)(x[i] + 12582912.0f);  // 1.5 · 2^23: the integer nearest to x
    for (int i = 0; i < n; ++i) x[i] -= __builtin_convertvector(bits[i] - 0x4B400000, vec);  // in [-½, ½]
    for (int i = 0; i < n; ++i) power[i] = coefficients[6] * x[i] + coefficients[5];  // minimax, error 2e-9
    for (int c = 4; c >= 0; --c)
        for (int i = 0; i < n; ++i) power[i] = power[i] * x[i] + coefficients[c];
    for (int i = 0; i < n; ++i) x[i] = (vec)((ivec)power[i] + (bits[i] << 23));
}

INLINE vec exp2_of(vec x) {
    exp2_each(1, &x);
    return x;
}

// Makes nan of x where `of` is. (Their difference would do, did associative arithmetic not leave it out.)
INLINE vec keep_nan(vec x, vec of) { return (vec)((ivec)x | (of != of)); }

// Of a normal number or nan.
INLINE vec log2_of(vec x) {
    const ivec exponent = ((ivec)x - 0x3F2AAAAB) >> 23;
    const vec f = (vec)((ivec)x - (exponent << 23)) - 1.0f;  // in [-⅓, ⅓]
    vec p = 0.2123272014f * f - 0.226198887f;  // minimax, error 8e-9
    p = p * f + 0.1994728235f;
    p = p * f - 0.2359367912f;
    p = p * f + 0.2888978129f;
    p = p * f - 0.3608444084f;
    p = p * f + 0.4808906034f;
    p = p * f - 0.7213455326f;
    p = p * f + 1.442695084f;
    return keep_nan(p * f + __builtin_convertvector(exponent, vec), x);
}

INLINE vec larger(vec a, vec b) {
    const ivec first = a > b;
    return (vec)(((ivec)a & first) | ((ivec)b & ~first));
}

INLINE int all(ivec mask) {
    int32_t both = -1;
    for (int lane = 0; lane < LANES; ++lane) both &= mask[lane];
    return both;
}

INLINE int64_t label_at(const void *target, int64_t bytes, int64_t index) {
    switch (bytes) {
        case 1: return ((const uint8_t *)target)[index];
        case -1: return ((const int8_t *)target)[index];
        case -2: return ((const int16_t *)target)[index];
        case -4: return ((const int32_t *)target)[index];
        default: return ((const int64_t *)target)[index];
    }
}

// Copies row `row` of cells, (K, width), to base 2 and less the largest of each cell.
static void read_cells(const struct problem *p, const float *image, int64_t row, float *cells, float *peak) {
    const int64_t width = p->width;
    const float *from = image + row * width;
    memcpy(peak, from, width * sizeof(float));
    for (int64_t k = 0; k < p->classes; ++k) {
        const float *logits = from + k * p->height * width;
        for (int64_t x = 0; x < width; ++x) {
            cells[k * width + x] = logits[x];
            peak[x] = logits[x] > peak[x] ? logits[x] : peak[x];
        }
    }
    for (int64_t k = 0; k < p->classes; ++k)
        for (int64_t x = 0; x < width; ++x) {
            const float value = (cells[k * width + x] - peak[x]) * 1.44269504088896f;
            cells[k * width + x] = value < FLOOR ? FLOOR : value;
        }
}

// Tells whether the cells around a block are LANES + 1 neighbours, so that they can be read at once.
INLINE int contiguous(const int32_t *lower, const int32_t *upper) {
    for (int lane = 0; lane < LANES; ++lane)
        if (lower[lane] != lower[0] + lane || upper[lane] != lower[lane] + 1) return 0;
    return 1;
}

INLINE vec gather(const float *cells, const int32_t *index) {
    vec values;
    for (int lane = 0; lane < LANES; ++lane) values[lane] = cells[index[lane]];
    return values;
}

// Sets up the classes of a block between two rows of cells. Returns whether no exponential can underflow.
static int open_block(const struct problem *p, const float *below, const float *above, int64_t run,
                      struct class_block *block) {
    const int32_t *lower = p->columns.lower + run, *upper = p->columns.upper + run;
    const vec share = *(const loose *)(p->columns.share + run);
    const int neighbours = contiguous(lower, upper);
    ivec tame = (ivec){0} - 1;
    for (int64_t k = 0; k < p->classes; ++k) {
        const float *a = below + k * p->width, *b = above + k * p->width;
        vec left, right, upper_left, upper_right;
        if (neighbours) {
            left = *(const loose *)(a + lower[0]), right = *(const loose *)(a + lower[0] + 1);
            upper_left = *(const loose *)(b + lower[0]), upper_right = *(const loose *)(b + lower[0] + 1);
        } else {
            left = gather(a, lower), right = gather(a, upper);
            upper_left = gather(b, lower), upper_right = gather(b, upper);
        }
        tame &= (left > TAME) & (right > TAME) & (upper_left > TAME) & (upper_right > TAME);
        struct class_block *c = block + k;
        c->start = left + share * (right - left);
        c->start_rise = upper_left + share * (upper_right - upper_left) - c->start;
        c->slope = p->columns.step * (right - left);
        c->slope_rise = p->columns.step * (upper_right - upper_left) - c->slope;
        c->grad = c->grad_place = c->upper_grad = c->upper_grad_place = (vec){0};
    }
    return all(tame);
}

// Adds the gradient of a block to the two rows of cells; `even` is that of the smoothing.
static void close_block(const struct problem *p, int64_t run, const struct class_block *block,
                        const struct class_block *even, struct row_of_cells below, struct row_of_cells above) {
    const int32_t *lower = p->columns.lower + run, *upper = p->columns.upper + run;
    const vec share = *(const loose *)(p->columns.share + run);
    const int neighbours = contiguous(lower, upper);
    for (int64_t k = 0; k < p->classes; ++k) {
        const struct class_block *c = block + k;
        const float weight = p->weight[k];
        const vec whole = c->grad - weight * even->grad;
        const vec of_upper = c->upper_grad - weight * even->upper_grad;
        const vec upper_right =
            share * of_upper + p->columns.step * (c->upper_grad_place - weight * even->upper_grad_place);
        const vec upper_left = of_upper - upper_right;
        const vec right =
            share * whole + p->columns.step * (c->grad_place - weight * even->grad_place) - upper_right;
        const vec left = whole - of_upper - right;
        const int64_t row = k * p->width;
        if (neighbours) {
            *(loose *)(below.left + row + lower[0]) += left;
            *(loose *)(below.right + row + lower[0]) += right;
            *(loose *)(above.left + row + lower[0]) += upper_left;
            *(loose *)(above.right + row + lower[0]) += upper_right;
        } else {
            for (int lane = 0; lane < LANES; ++lane) {
                const int64_t cell = row + lower[lane];
                const int border = upper[lane] == lower[lane];  // where one cell takes both places
                below.left[cell] += left[lane], above.left[cell] += upper_left[lane];
                (border ? below.left : below.right)[cell] += right[lane];
                (border ? above.left : above.right)[cell] += upper_right[lane];
            }
        }
    }
}

// Computes exponentials of TOGETHER or of single classes for a row.
INLINE void first_and_ratio(int together, float share, struct class_block *c) {
    vec values[2 * TOGETHER];
    for (int i = 0; i < together; ++i) {
        values[2 * i] = c[i].start + share * c[i].start_rise;
        values[2 * i + 1] = c[i].slope + share * c[i].slope_rise;
    }
    exp2_each(2 * together, values);
    for (int i = 0; i < together; ++i) c[i].first = values[2 * i], c[i].ratio = values[2 * i + 1];
}

// Sums the exponentials of a row of runs of `length` pixels.
INLINE void exponentials(int length, int64_t classes, float share, struct class_block *block,
                         struct row_block *row) {
    int64_t k = 0;
    for (; k + TOGETHER <= classes; k += TOGETHER) first_and_ratio(TOGETHER, share, block + k);
    for (; k < classes; ++k) first_and_ratio(1, share, block + k);
    vec mass[LONGEST], value[LONGEST];
    for (int x = 0; x < length; ++x) mass[x] = (vec){0};
    for (k = 0; k < classes; ++k) {
        const vec ratio = block[k].ratio, second = ratio * ratio, fourth = second * second;
        value[0] = block[k].first;
        for (int x = 1; x < length; ++x)
            value[x] = x < 2 ? value[0] * ratio : x < 4 ? value[x - 2] * second : value[x - 4] * fourth;
        for (int x = 0; x < length; ++x) mass[x] += value[x];
    }
    for (int x = 0; x < length; ++x) row->mass[x] = mass[x], row->log_mass[x] = log2_of(mass[x]);
}

INLINE void polynomials(int together, int length, float share, struct class_block *c, const vec *factor) {
    vec value[TOGETHER], derivative[TOGETHER], ratio[TOGETHER];
    for (int i = 0; i < together; ++i)
        ratio[i] = c[i].ratio, value[i] = factor[length - 1], derivative[i] = (vec){0};
    for (int x = length - 2; x >= 0; --x)
        for (int i = 0; i < together; ++i) {
            derivative[i] = derivative[i] * ratio[i] + value[i];
            value[i] = value[i] * ratio[i] + factor[x];
        }
    for (int i = 0; i < together; ++i) {
        const vec grad = c[i].first * value[i], grad_place = c[i].first * ratio[i] * derivative[i];
        c[i].grad += grad, c[i].upper_grad += share * grad;
        c[i].grad_place += grad_place, c[i].upper_grad_place += share * grad_place;
    }
}

// Adds the softmax's part of the gradient: the polynomial `Σ factor[x] · ratio^x` and its derivative, by Horner.
INLINE void softmax_gradient(int length, int64_t classes, float share, struct class_block *block,
                             const struct row_block *row) {
    int64_t k = 0;
    for (; k + TOGETHER <= classes; k += TOGETHER) polynomials(TOGETHER, length, share, block + k, row->factor);
    for (; k < classes; ++k) polynomials(1, length, share, block + k, row->factor);
}

// The same two, pixel by pixel, for logits of which exponentials may underflow. wild: (K, LONGEST).
static void wild_exponentials(int64_t length, int64_t classes, float share, const struct class_block *block,
                              struct row_block *row, vec *wild) {
    for (int64_t x = 0; x < length; ++x) {
        vec peak = (vec){0} + 8 * FLOOR, mass = {0};
        for (int64_t k = 0; k < classes; ++k) {
            const struct class_block *c = block + k;
            const vec value = c->start + share * c->start_rise + (float)x * (c->slope + share * c->slope_rise);
            wild[k * LONGEST + x] = value;
            peak = larger(value, peak);
        }
        for (int64_t k = 0; k < classes; ++k) {
            const vec value = wild[k * LONGEST + x] - peak;
            const vec power = exp2_of(larger(value, (vec){0} - 126.0f));
            wild[k * LONGEST + x] = keep_nan((vec)((ivec)power & (value > -126.0f)), value);
            mass += wild[k * LONGEST + x];
        }
        row->mass[x] = mass, row->log_mass[x] = log2_of(mass) + peak;
    }
}

static void wild_gradient(int64_t length, int64_t classes, float share, struct class_block *block,
                          const struct row_block *row, const vec *wild) {
    for (int64_t k = 0; k < classes; ++k) {
        struct class_block *c = block + k;
        for (int64_t x = 0; x < length; ++x) {
            const vec grad = row->factor[x] * wild[k * LONGEST + x];
            c->grad += grad, c->upper_grad += share * grad;
            c->grad_place += (float)x * grad, c->upper_grad_place += (float)x * share * grad;
        }
    }
}

INLINE void take_off(struct class_block *c, int lane, float share, float grad, float grad_place) {
    c->grad[lane] -= grad, c->upper_grad[lane] -= share * grad;
    c->grad_place[lane] -= grad_place, c->upper_grad_place[lane] -= share * grad_place;
}

// Adds up what a row of a block costs; sets row->factor and takes the labels' part off the gradient.
static void read_labels(const struct problem *p, int64_t pixel_row, int64_t run, float share,
                        struct class_block *block, struct class_block *even, struct row_block *row,
                        struct sums *sums) {
    const float hard_share = 1 - p->smoothing, even_share = p->smoothing / p->classes;
    float even_weight = 0, cost_of_row = 0, weight_of_row = 0;
    if (p->smoothing > 0)
        for (int64_t k = 0; k < p->classes; ++k) even_weight += p->weight[k];
    memset(row->factor, 0, sizeof row->factor);
    for (int lane = 0; lane < LANES; ++lane) {
        const int64_t first = pixel_row * p->out_width + p->columns.first[run + lane];
        const int64_t count = p->columns.count[run + lane];
        int64_t known = -1;  // the label whose logit and weight are at hand
        float start = 0, slope = 0, weight = 0, grad = 0, grad_place = 0;
        float even_grad = 0, even_place = 0;
        for (int64_t x = 0; x < count; ++x) {
            const int64_t label = label_at(p->target, p->label_bytes, first + x);
            if (label == p->ignore_index) continue;
            if (label < 0 || label >= p->classes) {
                sums->strange = label, sums->is_strange = 1;
                continue;
            }
            if (label != known) {
                if (known >= 0) take_off(block + known, lane, share, grad, grad_place);
                const struct class_block *c = block + label;
                start = c->start[lane] + share * c->start_rise[lane];
                slope = c->slope[lane] + share * c->slope_rise[lane];
                weight = p->weight[label];
                known = label, grad = grad_place = 0;
            }
            const float of_pixel = p->pixel_weight ? p->pixel_weight[first + x] : 1.0f;
            float cost = LN2 * (row->log_mass[x][lane] - (start + (float)x * slope));
            cost = cost < 0 ? 0 : cost;  // what rounding leaves of a sure pixel
            float hard = hard_share * weight * of_pixel, factor = hard;
            weight_of_row += weight * of_pixel;
            if (cost >= p->clip) {
                cost_of_row += hard * p->clip;
                hard = factor = 0;
            } else {
                cost_of_row += hard * cost;
            }
            if (even_share > 0) {
                const float share_of_all = even_share * of_pixel;
                const float logit = row->even_start[lane] + (float)x * row->even_slope[lane];
                cost_of_row += share_of_all * LN2 * (even_weight * row->log_mass[x][lane] - logit);
                factor += share_of_all * even_weight;
                even_grad += share_of_all, even_place += (float)x * share_of_all;
            }
            row->factor[x][lane] = factor;
            grad += hard, grad_place += (float)x * hard;
        }
        if (known >= 0) take_off(block + known, lane, share, grad, grad_place);
        even->grad[lane] += even_grad, even->upper_grad[lane] += share * even_grad;
        even->grad_place[lane] += even_place, even->upper_grad_place[lane] += share * even_place;
    }
    sums->cost += cost_of_row;
    sums->weight += weight_of_row;
}

INLINE void at_length(int64_t length, int64_t classes, float share, struct class_block *block,
                      struct row_block *row, int backward) {
#define AT(n)                                                            \
    case n:                                                              \
        if (backward) softmax_gradient(n, classes, share, block, row); \
        else exponentials(n, classes, share, block, row);                \
        break;
    switch (length) { AT(1) AT(2) AT(3) AT(4) AT(5) AT(6) AT(7) AT(8) }
#undef AT
}

// Goes through the rows of pixels between two rows of cells.
static void row_run(const struct problem *p, int64_t image, int64_t run, const float *cells[2],
                    const struct row_of_cells grads[2],
                    struct class_block *block, vec *wild, struct sums *sums) {
    const int64_t classes = p->classes, length = p->columns.longest;
    struct row_block row;
    for (int64_t column = 0; column < p->columns.runs; column += LANES) {
        const int tame = open_block(p, cells[0], cells[1], column, block);
        struct class_block even = {0};
        if (p->smoothing > 0)
            for (int64_t k = 0; k < classes; ++k) {
                const struct class_block *c = block + k;
                even.start += p->weight[k] * c->start, even.start_rise += p->weight[k] * c->start_rise;
                even.slope += p->weight[k] * c->slope, even.slope_rise += p->weight[k] * c->slope_rise;
            }
        for (int64_t y = 0; y < p->rows.count[run]; ++y) {
            const float share = p->rows.share[run] + (float)y * p->rows.step;
            if (tame) at_length(length, classes, share, block, &row, 0);
            else wild_exponentials(length, classes, share, block, &row, wild);
            row.even_start = even.start + share * even.start_rise;
            row.even_slope = even.slope + share * even.slope_rise;
            read_labels(p, image * p->out_height + p->rows.first[run] + y, column, share, block, &even, &row, sums);
            if (!p->gradient) continue;
            for (int64_t x = 0; x < length; ++x) row.factor[x] /= row.mass[x];
            if (tame) at_length(length, classes, share, block, &row, 1);
            else wild_gradient(length, classes, share, block, &row, wild);
        }
        if (p->gradient) close_block(p, column, block, &even, grads[0], grads[1]);
    }
}

static void write_row(const struct problem *p, struct row_of_cells grads, float *to, int64_t stride) {
    for (int64_t k = 0; k < p->classes; ++k) {
        const float *left = grads.left + k * p->width, *right = grads.right + k * p->width;
        to[k * stride] = left[0];
        for (int64_t x = 1; x < p->width; ++x) to[k * stride + x] = left[x] + right[x - 1];
    }
}

static size_t up_to_64(size_t bytes) { return (bytes + 63) / 64 * 64; }

// Computes one part of the loss: some runs of rows of one image. Parts share no memory that they write; the last
// row of gradients of each goes to the seam. Returns 0, or 1 if there is no memory.
int upsample_cross_entropy(const struct problem *p, int64_t part, struct sums *all_sums) {
    const int64_t image = part / p->parts, first = part % p->parts * p->row_runs;
    const int64_t end = first + p->row_runs < p->rows.runs ? first + p->row_runs : p->rows.runs;
    const size_t row_bytes = up_to_64(p->classes * p->width * sizeof(float));
    const size_t block_bytes = up_to_64(p->classes * sizeof(struct class_block));
    const size_t wild_bytes = up_to_64(p->classes * LONGEST * sizeof(vec));
    char *memory = aligned_alloc(64, block_bytes + wild_bytes + 6 * row_bytes + up_to_64(p->width * sizeof(float)));
    if (!memory) return 1;
    struct class_block *block = (struct class_block *)memory;
    vec *wild = (vec *)(memory + block_bytes);
    char *rest = memory + block_bytes + wild_bytes;
    float *cells[2] = {(float *)rest, (float *)(rest + row_bytes)};
    rest += 2 * row_bytes;
    struct row_of_cells grads[2] = {{(float *)rest, (float *)(rest + row_bytes)},
                                    {(float *)(rest + 2 * row_bytes), (float *)(rest + 3 * row_bytes)}};
    float *peak = (float *)(rest + 4 * row_bytes);
    const int64_t cells_of_image = p->classes * p->height * p->width, stride = p->height * p->width;
    const float *logits = p->logits + image * cells_of_image;
    float *gradient = p->gradient ? p->gradient + image * cells_of_image : NULL;
    struct sums sums = {0};
    int64_t held[2] = {-1, -1};  // which rows of cells lie in cells[] and grads[]
    for (int64_t run = first; run < end; ++run) {
        const int64_t wanted[2] = {p->rows.lower[run], p->rows.upper[run]};
        for (int side = 0; side < 2; ++side) {
            if (held[side] == wanted[side]) continue;
            if (gradient && held[side] >= 0) write_row(p, grads[side], gradient + held[side] * p->width, stride);
            held[side] = wanted[side];
            if (side == 0 && held[1] == wanted[0]) {  // the row above comes down
                float *const spare_cells = cells[0];
                const struct row_of_cells spare_grads = grads[0];
                cells[0] = cells[1], grads[0] = grads[1];
                cells[1] = spare_cells, grads[1] = spare_grads;
                held[1] = -1;
            } else if (wanted[1] != wanted[0] || side == 0) {
                read_cells(p, logits, wanted[side], cells[side], peak);
                memset(grads[side].left, 0, 2 * row_bytes);  // right follows
            } else {
                held[1] = -1;  // the border: one row takes both places
            }
        }
        const int border = wanted[0] == wanted[1];
        const float *around[2] = {cells[0], cells[border ? 0 : 1]};
        const struct row_of_cells grads_around[2] = {grads[0], grads[border ? 0 : 1]};
        row_run(p, image, run, around, grads_around, block, wild, &sums);
    }
    if (gradient) {
        const int last = held[1] >= 0;
        if (last) write_row(p, grads[0], gradient + held[0] * p->width, stride);
        float *seam = p->seam + (image * p->classes * p->parts + part % p->parts) * p->width;
        write_row(p, grads[last], seam, p->parts * p->width);
    }
    free(memory);
    all_sums[part] = sums;
    return 0;
}
