// Attention, softmax(Q Kᵀ) V, and its gradients, without the N×N matrix.
//
// As in flash attention (https://arxiv.org/abs/2205.14135) the matrix is computed tile by tile, once more on
// the backward pass, and each tile is used up while it lies in the second cache. All products are of one kind: a
// block of ROWS × PANEL sums stays in registers, rows of the left factor come one number at a time, which may
// then lie in either order, and the right factor was packed into panels of that width. So neither the tile nor
// its gradient is ever transposed.
//
// Logits are to base 2. What is kept of a row of the matrix is its largest logit and the inverse of its sum.
// The latter, and what dropout divides by, are multiplied into the rows of the gradient, where it costs nothing.

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __AVX512F__
#define LANES 16
#define ROWS 12
#else
#define LANES 8
#define ROWS 6
#endif
#define PANEL (2 * LANES)
#define QUERIES 96         // rows of a tile: a multiple of ROWS
#define KEYS 96            // its columns: a multiple of ROWS and of PANEL
#define PITCH (KEYS + 16)  // from row to row of a tile: not a power of two, which would crowd the first cache
#define LOWEST (-126.0f)   // logits to base 2 below the largest, from which on exponentials are as good as 0
#define LOG2E 1.44269504088896f
#define LN2 0.693147180559945f
#define NOTHING (-1e30f)   // logit of what is not there; differences stay finite

typedef float vec __attribute__((vector_size(4 * LANES), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), may_alias));
typedef uint32_t uvec __attribute__((vector_size(4 * LANES), may_alias));
#define INLINE static inline __attribute__((always_inline))
#define APART static __attribute__((noinline))

// (B, H, N, d), numbers of a row side by side; strides in numbers.
struct heads {
    float *data;
    int64_t batch, head, row;
};

struct attention {
    struct heads query, key, value, out;
    struct heads grad_out, grad_query, grad_key, grad_value;  // of the queries one for each part of the keys
    float *statistics;  // (B, H, N, 2): largest logit to base 2, inverse of the sum
    uint64_t seed;
    int64_t batch, heads, length, width;
    int64_t parts;            // of the rows or columns of one head's matrix
    int64_t grad_query_part;  // numbers between the gradients of two parts
    float scale;              // of the logits
    int32_t dropped;          // of 65536 weights
};

// One head's share of the problem, and the room to work on it.
struct work {
    const struct attention *problem;
    int64_t batch, head, index;    // index = batch · heads + head
    int64_t padded;                // width to whole panels
    float kept;                    // share of the weights that dropout leaves
};

INLINE int64_t whole(int64_t count, int64_t of) { return (count + of - 1) / of * of; }
INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

INLINE float *row_of(struct heads heads, const struct work *w, int64_t row) {
    return heads.data + w->batch * heads.batch + w->head * heads.head + row * heads.row;
}

#if defined __AVX__ && LANES == 8 && defined __has_builtin
#if __has_builtin(__builtin_ia32_maxps256)
#define LARGER __builtin_ia32_maxps256  // one instruction, which compilers do not find in the masks below
#endif
#endif

// The larger of two; b where one of them is nan.
INLINE vec larger(vec a, vec b) {
#ifdef LARGER
    return (vec)LARGER(a, b);
#else
    const ivec first = a > b;
    return (vec)(((ivec)a & first) | ((ivec)b & ~first));
#endif
}

// Replaces `n` vectors of numbers up to 0 by their exponentials to base 2; nan stays nan. Step by step for all
// of them: each step waits several cycles for the one before, and fills that time with the other vectors.
INLINE void exp2_each(int n, vec *x) {
    static const float coefficients[] = {1.0f, 0.693147203f, 0.240226479f, 0.05550332163f,
                                         0.009618438601f, 0.001339900357f, 0.0001535325811f};
    vec power[4];
    ivec nearest[4];
    for (int i = 0; i < n; ++i) x[i] = larger((vec){0} + LOWEST, x[i]);
    for (int i = 0; i < n; ++i) nearest[i] = __builtin_convertvector(x[i] - 0.5f, ivec);  // cut towards 0
    for (int i = 0; i < n; ++i) x[i] -= __builtin_convertvector(nearest[i], vec);         // in [-½, ½]
    for (int i = 0; i < n; ++i) power[i] = coefficients[6] * x[i] + coefficients[5];      // minimax, error 2e-9
    for (int c = 4; c >= 0; --c)
        for (int i = 0; i < n; ++i) power[i] = power[i] * x[i] + coefficients[c];
    for (int i = 0; i < n; ++i) x[i] = (vec)((ivec)power[i] + (nearest[i] << 23));
}

INLINE float exp2_of(float x) {
    vec all = (vec){0} + x;
    exp2_each(1, &all);
    return all[0];
}

INLINE float sum_of(vec x) {
    float sum = 0;
    for (int lane = 0; lane < LANES; ++lane) sum += x[lane];
    return sum;
}

// Which weights of a row are kept: a hash of seed, head, row and column, 16 bits for each weight.
struct dice {
    uint32_t first, second;
};

INLINE struct dice dice_of(const struct work *w, int64_t row) {  // splitmix64
    uint64_t x = w->problem->seed + (uint64_t)(w->index * w->problem->length + row + 1) * 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    x ^= x >> 31;
    return (struct dice){(uint32_t)x, (uint32_t)(x >> 32)};
}

// Masks for the two vectors of the panel that begins at `column`.
INLINE void roll(struct dice dice, int64_t column, int32_t dropped, ivec *keep) {
    uvec x;
    for (int lane = 0; lane < LANES; ++lane) x[lane] = lane;
    x = (x + (uint32_t)(column / 2)) ^ dice.first;
    x = (x ^ (x >> 16)) * 0x7FEB352Du;
    x = ((x ^ (x >> 15)) + dice.second) * 0x846CA68Bu;
    x ^= x >> 16;
    keep[0] = (ivec)(x & 0xFFFFu) >= dropped;
    keep[1] = (ivec)(x >> 16) >= dropped;
}

// ROWS × PANEL numbers of c (+)= a · b over `depth`; a[i, k] lies at i · a_row + k · a_step.
INLINE void product(int64_t depth, const float *a, int64_t a_row, int64_t a_step, const float *b, float *c,
                    int64_t c_row, int add) {
    vec sum[ROWS][2];
    for (int i = 0; i < ROWS; ++i) sum[i][0] = sum[i][1] = (vec){0};
    for (int64_t k = 0; k < depth; ++k) {
        const vec left = *(const vec *)(b + k * PANEL), right = *(const vec *)(b + k * PANEL + LANES);
        for (int i = 0; i < ROWS; ++i) {
            const float x = a[i * a_row + k * a_step];
            sum[i][0] += x * left, sum[i][1] += x * right;
        }
    }
    for (int i = 0; i < ROWS; ++i) {
        vec *to = (vec *)(c + i * c_row);
        if (add) sum[i][0] += to[0], sum[i][1] += to[1];
        to[0] = sum[i][0], to[1] = sum[i][1];
    }
}

// tile = rows · panels: (rows, depth) times panels (columns / PANEL, depth, PANEL).
APART void multiply(int64_t rows, int64_t columns, int64_t depth, const float *a, int64_t a_row, const float *b,
                    float *tile) {
    for (int64_t j = 0; j < columns; j += PANEL)
        for (int64_t i = 0; i < rows; i += ROWS)
            product(depth, a + i * a_row, a_row, 1, b + j * depth, tile + i * PITCH + j, PITCH, 0);
}

// c += tile · panels: c (rows, width), panels (width / PANEL, KEYS, PANEL).
APART void add_rows(int64_t rows, int64_t width, int64_t depth, const float *tile, const float *b, float *c) {
    for (int64_t j = 0; j < width; j += PANEL)
        for (int64_t i = 0; i < rows; i += ROWS)
            product(depth, tile + i * PITCH, PITCH, 1, b + j * KEYS, c + i * width + j, width, 1);
}

// c += tileᵀ · panels: c (columns, width), panels (width / PANEL, QUERIES, PANEL).
APART void add_columns(int64_t columns, int64_t width, int64_t depth, const float *tile, const float *b,
                       float *c) {
    for (int64_t i = 0; i < columns; i += ROWS)
        for (int64_t j = 0; j < width; j += PANEL)
            product(depth, tile + i, 1, PITCH, b + j * QUERIES, c + i * width + j, width, 1);
}

// Asks for a row some rows ahead: rows of one head lie too far apart for the processor to see where it goes.
INLINE void expect(const float *from, int64_t row, int64_t n, int64_t count, int64_t width) {
    const float *next = from + (n + 8) * row;
    for (int64_t c = 0; c < width && n + 8 < count; c += 16) __builtin_prefetch(next + c);
}

// Copies `count` rows times a factor, and times every other one of `factors`, to (room, width), zeros behind.
static void pack_rows(const float *from, int64_t row, int64_t count, int64_t width, const float *factors,
                      float factor, float *to, int64_t room) {
    for (int64_t n = 0; n < count; ++n) {
        const float f = factors ? factor * factors[2 * n] : factor;
        expect(from, row, n, count, width);
        for (int64_t c = 0; c < width; ++c) to[n * width + c] = f * from[n * row + c];
    }
    memset(to + count * width, 0, (room - count) * width * sizeof(float));
}

// The same to panels of columns, (padded / PANEL, room, PANEL).
static void pack_panels(const float *from, int64_t row, int64_t count, int64_t width, float *to, int64_t room,
                        int64_t padded) {
    for (int64_t p = 0; p < padded; p += PANEL, to += room * PANEL) {
        const int64_t columns = smaller(PANEL, width - p);
        for (int64_t n = 0; n < count; ++n) {
            if (columns == PANEL)
                memcpy(to + n * PANEL, from + n * row + p, PANEL * sizeof(float));
            else
                for (int64_t c = 0; c < PANEL; ++c) to[n * PANEL + c] = c < columns ? from[n * row + p + c] : 0;
        }
        memset(to + count * PANEL, 0, (room - count) * PANEL * sizeof(float));
    }
}

// To panels of rows, (room / PANEL, width, PANEL).
static void pack_transposed(const float *from, int64_t row, int64_t count, int64_t width, float *to,
                            int64_t room) {
    for (int64_t p = 0; p < room; p += PANEL, to += width * PANEL)
        for (int n = 0; n < PANEL; ++n) {
            expect(from, row, p + n, count, width);
            for (int64_t c = 0; c < width; ++c) to[c * PANEL + n] = p + n < count ? from[(p + n) * row + c] : 0;
        }
}

// Takes the columns behind the last key out of a tile of logits.
static void close_tile(float *tile, int64_t rows, int64_t keys, int64_t columns) {
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = keys; j < columns; ++j) tile[i * PITCH + j] = NOTHING;
}

// Turns a row of logits into weights less the row's largest, and what was summed before with it.
INLINE void weigh_row(int drop, const struct work *w, int64_t row, int64_t column, int64_t columns,
                      float *logits, float *peak, vec *sum, float *out) {
    vec top[2] = {(vec){0} + *peak, (vec){0} + *peak};
    for (int64_t j = 0; j < columns; j += PANEL)
        for (int i = 0; i < 2; ++i) top[i] = larger(((vec *)(logits + j))[i], top[i]);
    top[0] = larger(top[0], top[1]);
    float highest = top[0][0];
    for (int lane = 1; lane < LANES; ++lane) highest = top[0][lane] > highest ? top[0][lane] : highest;
    if (highest > *peak) {
        const float fade = exp2_of(*peak - highest);
        for (int64_t c = 0; c < w->padded; c += LANES) *(vec *)(out + c) *= fade;
        *sum *= fade, *peak = highest;
    }
    const struct dice dice = drop ? dice_of(w, row) : (struct dice){0, 0};
    vec total[2] = {*sum, {0}};
    for (int64_t j = 0; j < columns; j += PANEL) {
        vec *at = (vec *)(logits + j), x[2] = {at[0] - highest, at[1] - highest};
        exp2_each(2, x);
        total[0] += x[0], total[1] += x[1];
        if (drop) {
            ivec keep[2];
            roll(dice, column + j, w->problem->dropped, keep);
            for (int i = 0; i < 2; ++i) x[i] = (vec)((ivec)x[i] & keep[i]);
        }
        at[0] = x[0], at[1] = x[1];
    }
    *sum = total[0] + total[1];
}

APART void weigh(const struct work *w, int64_t first, int64_t rows, int64_t column, int64_t columns,
                 float *tile, float *peaks, vec *sums, float *out) {
    for (int64_t i = 0; i < rows; ++i) {
        float *o = out + i * w->padded;
        if (w->problem->dropped)
            weigh_row(1, w, first + i, column, columns, tile + i * PITCH, peaks + i, sums + i, o);
        else
            weigh_row(0, w, first + i, column, columns, tile + i * PITCH, peaks + i, sums + i, o);
    }
}

// Turns logits into weights, and the weights' gradient into that of the logits.
INLINE void pull_row(int drop, const struct work *w, int64_t row, int64_t column, int64_t columns, float peak,
                     float dot, float *logits, float *slopes) {
    const struct dice dice = drop ? dice_of(w, row) : (struct dice){0, 0};
    for (int64_t j = 0; j < columns; j += PANEL) {
        vec *at = (vec *)(logits + j), *slope = (vec *)(slopes + j), x[2] = {at[0] - peak, at[1] - peak};
        exp2_each(2, x);
        if (drop) {
            ivec keep[2];
            roll(dice, column + j, w->problem->dropped, keep);
            for (int i = 0; i < 2; ++i) {
                slope[i] = x[i] * ((vec)((ivec)slope[i] & keep[i]) - dot);
                at[i] = (vec)((ivec)x[i] & keep[i]);
            }
        } else
            for (int i = 0; i < 2; ++i) slope[i] = x[i] * (slope[i] - dot), at[i] = x[i];
    }
}

APART void pull(const struct work *w, int64_t first, int64_t rows, int64_t column, int64_t columns,
                const float *peaks, const float *dots, float *tile, float *slopes) {
    for (int64_t i = 0; i < rows; ++i) {
        float *logits = tile + i * PITCH, *slope = slopes + i * PITCH;
        if (w->problem->dropped)
            pull_row(1, w, first + i, column, columns, peaks[i], dots[i], logits, slope);
        else
            pull_row(0, w, first + i, column, columns, peaks[i], dots[i], logits, slope);
    }
}

static struct work open_work(const struct attention *p, int64_t task) {
    const int64_t index = task / p->parts;
    return (struct work){p, index / p->heads, index % p->heads, index, whole(p->width, PANEL),
                         1.0f - p->dropped / 65536.0f};
}

// Hands out room after room of a piece of memory, on the boundaries that vectors want; counts only, if null.
struct room {
    float *memory;
    int64_t used;
};

static float *take(struct room *room, int64_t count) {
    float *from = room->memory + (room->memory ? room->used : 0);
    room->used += whole(count, 16);
    return from;
}

struct forward_room {
    float *query, *out, *peaks, *keys, *values, *tile;
    vec *sums;
};

static struct forward_room forward_rooms(struct room *room, const struct work *w, int64_t rows) {
    struct forward_room r;
    r.query = take(room, rows * w->problem->width);
    r.out = take(room, rows * w->padded);
    r.peaks = take(room, rows);
    r.sums = (vec *)take(room, rows * LANES);
    r.keys = take(room, KEYS * w->problem->width);
    r.values = take(room, KEYS * w->padded);
    r.tile = take(room, QUERIES * PITCH);
    return r;
}

// Tells whether a block of sums stays in registers. With SSE alone it does not, and all took ten times as long as
// torch's attention; other processors were never tried.
int attention_is_fast(void) {
#if defined __AVX512F__ || (defined __AVX2__ && defined __FMA__)
    return 1;
#else
    return 0;
#endif
}

// Computes the rows of part `task % parts` of one head. Returns whether memory ran out.
int attention_forward(const struct attention *p, int64_t task) {
    const struct work work = open_work(p, task), *w = &work;
    const int64_t share = whole((p->length + p->parts - 1) / p->parts, ROWS);
    const int64_t first = task % p->parts * share, count = smaller(share, p->length - first);
    if (count <= 0) return 0;
    const int64_t rows = whole(count, ROWS), width = p->width;
    struct room room = {0};
    forward_rooms(&room, w, rows);
    room.memory = aligned_alloc(64, room.used * sizeof(float));
    if (!room.memory) return 1;
    room.used = 0;
    const struct forward_room r = forward_rooms(&room, w, rows);

    pack_rows(row_of(p->query, w, first), p->query.row, count, width, 0, p->scale * LOG2E, r.query, rows);
    memset(r.out, 0, rows * w->padded * sizeof(float));
    for (int64_t i = 0; i < rows; ++i) r.peaks[i] = NOTHING, r.sums[i] = (vec){0};
    for (int64_t key = 0; key < p->length; key += KEYS) {
        const int64_t keys = smaller(KEYS, p->length - key), columns = whole(keys, PANEL);
        pack_transposed(row_of(p->key, w, key), p->key.row, keys, width, r.keys, columns);
        pack_panels(row_of(p->value, w, key), p->value.row, keys, width, r.values, KEYS, w->padded);
        for (int64_t i = 0; i < rows; i += QUERIES) {
            const int64_t high = smaller(QUERIES, rows - i);
            float *out = r.out + i * w->padded;
            multiply(high, columns, width, r.query + i * width, width, r.keys, r.tile);
            close_tile(r.tile, high, keys, columns);
            weigh(w, first + i, high, key, columns, r.tile, r.peaks + i, r.sums + i, out);
            add_rows(high, w->padded, keys, r.tile, r.values, out);
        }
    }
    for (int64_t i = 0; i < count; ++i) {
        float *out = row_of(p->out, w, first + i);
        const float inverse = 1 / sum_of(r.sums[i]);
        for (int64_t c = 0; c < width; ++c) out[c] = r.out[i * w->padded + c] * (inverse / w->kept);
        float *statistics = p->statistics + 2 * (w->index * p->length + first + i);
        statistics[0] = r.peaks[i], statistics[1] = inverse;
    }
    free(room.memory);
    return 0;
}

struct backward_room {
    float *query, *grad, *query_panels, *grad_panels, *grad_query, *peaks, *dots;
    float *keys, *values, *key_panels, *grad_key, *grad_value, *tile, *slopes;
};

static struct backward_room backward_rooms(struct room *room, const struct work *w, int64_t rows) {
    struct backward_room r;
    const int64_t width = w->problem->width, padded = w->padded, all = whole(rows, QUERIES);
    r.query = take(room, rows * width);
    r.grad = take(room, rows * width);
    r.query_panels = take(room, all * padded);
    r.grad_panels = take(room, all * padded);
    r.grad_query = take(room, rows * padded);
    r.peaks = take(room, rows);
    r.dots = take(room, rows);
    r.keys = take(room, KEYS * width);
    r.values = take(room, KEYS * width);
    r.key_panels = take(room, KEYS * padded);
    r.grad_key = take(room, KEYS * padded);
    r.grad_value = take(room, KEYS * padded);
    r.tile = take(room, QUERIES * PITCH);
    r.slopes = take(room, QUERIES * PITCH);
    return r;
}

// Packs what all keys need of the queries, by blocks.
static void read_queries(const struct work *w, int64_t rows, const struct backward_room *r) {
    const struct attention *p = w->problem;
    const int64_t width = p->width, length = p->length;
    const float *statistics = p->statistics + 2 * w->index * length;
    pack_rows(row_of(p->query, w, 0), p->query.row, length, width, 0, p->scale * LOG2E, r->query, rows);
    pack_rows(row_of(p->grad_out, w, 0), p->grad_out.row, length, width, statistics + 1, 1 / w->kept, r->grad,
              rows);
    for (int64_t i = 0; i < rows; i += QUERIES) {
        const int64_t high = smaller(QUERIES, rows - i);
        const int64_t at = i * width, to = i * w->padded;
        pack_panels(r->query + at, width, high, width, r->query_panels + to, QUERIES, w->padded);
        pack_panels(r->grad + at, width, high, width, r->grad_panels + to, QUERIES, w->padded);
    }
    for (int64_t i = 0; i < rows; ++i) {
        float dot = 0;
        if (i < length) {
            const float *grad = r->grad + i * width, *out = row_of(p->out, w, i);
            expect(out, p->out.row, 0, length - i, width);
            for (int64_t c = 0; c < width; ++c) dot += grad[c] * out[c];
        }
        r->dots[i] = dot * w->kept, r->peaks[i] = i < length ? statistics[2 * i] : 0;
    }
    memset(r->grad_query, 0, rows * w->padded * sizeof(float));
}

// Computes the gradients of the keys and values of part `task % parts` of one head, and its share of that of the
// queries. Returns whether memory ran out.
int attention_backward(const struct attention *p, int64_t task) {
    const struct work work = open_work(p, task), *w = &work;
    const int64_t part = task % p->parts, width = p->width, rows = whole(p->length, ROWS);
    const int64_t share = whole((p->length + p->parts - 1) / p->parts, PANEL);
    const int64_t first = smaller(part * share, p->length), last = smaller(first + share, p->length);
    struct room room = {0};
    backward_rooms(&room, w, rows);
    room.memory = aligned_alloc(64, room.used * sizeof(float));
    if (!room.memory) return 1;
    room.used = 0;
    const struct backward_room rooms = backward_rooms(&room, w, rows), *r = &rooms;

    read_queries(w, rows, r);
    for (int64_t key = first; key < last; key += KEYS) {
        const int64_t keys = smaller(KEYS, last - key), columns = whole(keys, PANEL);
        pack_transposed(row_of(p->key, w, key), p->key.row, keys, width, r->keys, columns);
        pack_transposed(row_of(p->value, w, key), p->value.row, keys, width, r->values, columns);
        pack_panels(row_of(p->key, w, key), p->key.row, keys, width, r->key_panels, KEYS, w->padded);
        memset(r->grad_key, 0, KEYS * w->padded * sizeof(float));
        memset(r->grad_value, 0, KEYS * w->padded * sizeof(float));
        for (int64_t i = 0; i < rows; i += QUERIES) {
            const int64_t high = smaller(QUERIES, rows - i);
            multiply(high, columns, width, r->query + i * width, width, r->keys, r->tile);
            multiply(high, columns, width, r->grad + i * width, width, r->values, r->slopes);
            close_tile(r->tile, high, keys, columns);
            pull(w, i, high, key, columns, r->peaks + i, r->dots + i, r->tile, r->slopes);
            add_columns(keys, w->padded, high, r->tile, r->grad_panels + i * w->padded, r->grad_value);
            add_columns(keys, w->padded, high, r->slopes, r->query_panels + i * w->padded, r->grad_key);
            add_rows(high, w->padded, keys, r->slopes, r->key_panels, r->grad_query + i * w->padded);
        }
        for (int64_t n = 0; n < keys; ++n) {
            float *to_key = row_of(p->grad_key, w, key + n), *to_value = row_of(p->grad_value, w, key + n);
            for (int64_t c = 0; c < width; ++c) {
                to_key[c] = r->grad_key[n * w->padded + c] * LN2;  // the query was to base 2
                to_value[c] = r->grad_value[n * w->padded + c];
            }
        }
    }
    for (int64_t i = 0; i < p->length; ++i) {
        float *to = row_of(p->grad_query, w, i) + part * p->grad_query_part;
        for (int64_t c = 0; c < width; ++c) to[c] = r->grad_query[i * w->padded + c] * p->scale;
    }
    free(room.memory);
    return 0;
}
