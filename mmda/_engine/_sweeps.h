/* The loops of _sweeps.c for one floating-point type and one instruction set.

   Included several times, with REAL, BITS, the constants of its exponential, ATTRIBUTE and NAME() defined. Every
   function processes the rows [first, last) of a tile, so that threads can share a tile. Comparisons are written so
   that they propagate NaN. */

static inline __attribute__((always_inline)) REAL NAME(least)(REAL a, REAL b) { return a > b ? b : a; }
static inline __attribute__((always_inline)) REAL NAME(most)(REAL a, REAL b) { return a < b ? b : a; }

/* 2^x for x up to 127: x = whole + part, a polynomial for 2^part, and whole added to the exponent bits; 0 for results
   below the normal range. */
static inline __attribute__((always_inline)) REAL NAME(power)(REAL x)
{
    REAL kept = NAME(most)(x, LOW_EXPONENT), shifted = kept + MAGIC, part = kept - (shifted - MAGIC);
    BITS bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (BITS)((UBITS)bits << MANTISSA); /* the low bits of `shifted` are whole and the bias */
    REAL scale, p = C(0);
    memcpy(&scale, &bits, sizeof scale);
    EACH_COEFFICIENT(part)
    return p * scale;
}

/* Kernel values and their derivatives along a segment of a row: products `g` become derivatives, values go to `v`.

   t = 2 g + na + nb, at most 0, is minus the squared distance. `doublings` > 0: a Gaussian with this many rates 1, 2,
   4, ... */
static inline __attribute__((always_inline)) void NAME(stretch)(
    const Tile *tile, int kind, int doublings, double by, Py_ssize_t length, REAL *restrict g, REAL na,
    const REAL *restrict nb, REAL *restrict v, REAL *restrict x, REAL *restrict u)
{
    const double *counts = tile->counts, *slopes = tile->slopes, *fresh = tile->fresh;
    REAL factor = (REAL)by;
    if (kind == GAUSSIAN && doublings) {
        REAL c[MOST_DOUBLINGS], s[MOST_DOUBLINGS];
        for (int k = 0; k < doublings; k++) {
            c[k] = (REAL)counts[k];
            s[k] = (REAL)(slopes[k] * by);
        }
#pragma omp simd
        for (Py_ssize_t j = 0; j < length; j++) {
            REAL t = (g[j] + g[j]) + (na + nb[j]);
            REAL e = NAME(power)(NAME(least)(t, 0));
            REAL value = c[0] * e, slope = s[0] * e;
            for (int k = 1; k < doublings; k++) {
                e *= e;
                value += c[k] * e;
                slope += s[k] * e;
            }
            v[j] = value;
            g[j] = slope;
        }
        return;
    }
    if (kind == GAUSSIAN || kind == RATIONAL) {
#pragma omp simd
        for (Py_ssize_t j = 0; j < length; j++) {
            REAL t = (g[j] + g[j]) + (na + nb[j]);
            x[j] = NAME(least)(t, 0);
            v[j] = g[j] = 0;
        }
    } else {
#pragma omp simd
        for (Py_ssize_t j = 0; j < length; j++) {
            REAL t = (g[j] + g[j]) + (na + nb[j]);
            REAL root = SQRT(-NAME(least)(t, 0));
            /* the derivative of a distance is set to zero for coinciding rows */
            REAL inverse = root == 0 ? 0 : factor / root;
            v[j] = kind == ENERGY ? root : 0;
            g[j] = kind == ENERGY ? inverse : 0;
            x[j] = -root;
        }
        if (kind == ENERGY)
            return;
    }
    for (int k = 0; k < tile->steps; k++) {
        REAL c = (REAL)counts[k], s = (REAL)(slopes[k] * (kind == LAPLACIAN ? 1 : by)), rate = (REAL)fresh[k];
        if (kind == RATIONAL) {
#pragma omp simd
            for (Py_ssize_t j = 0; j < length; j++) {
                REAL base = 1 / (1 - x[j] * rate);
                v[j] += base;
                g[j] += s * (base * base);
            }
        } else if (rate != 0) {
#pragma omp simd
            for (Py_ssize_t j = 0; j < length; j++) {
                REAL e = NAME(power)(rate * x[j]);
                u[j] = e;
                v[j] += c * e;
                g[j] += s * e;
            }
        } else {
#pragma omp simd
            for (Py_ssize_t j = 0; j < length; j++) {
                REAL e = u[j] * u[j];
                u[j] = e;
                v[j] += c * e;
                g[j] += s * e;
            }
        }
    }
    if (kind == LAPLACIAN) {
#pragma omp simd
        for (Py_ssize_t j = 0; j < length; j++)
            g[j] *= x[j] == 0 ? 0 : factor / -x[j];
    }
}

/* `stretch` fused with the sums of `tile_body`, for Gaussian doublings without pair weights. */
static inline __attribute__((always_inline)) void NAME(plain_stretch)(
    const Tile *tile, int doublings, double by, Py_ssize_t length, REAL *restrict g, REAL na,
    const REAL *restrict nb, REAL *restrict column, REAL *values, REAL *sums)
{
    REAL c[MOST_DOUBLINGS], s[MOST_DOUBLINGS], value_sum = 0, slope_sum = 0;
    for (int k = 0; k < doublings; k++) {
        c[k] = (REAL)tile->counts[k];
        s[k] = (REAL)(tile->slopes[k] * by);
    }
#pragma omp simd reduction(+ : value_sum, slope_sum)
    for (Py_ssize_t j = 0; j < length; j++) {
        REAL t = (g[j] + g[j]) + (na + nb[j]);
        REAL e = NAME(power)(NAME(least)(t, 0));
        REAL value = c[0] * e, slope = s[0] * e;
        for (int k = 1; k < doublings; k++) {
            e *= e;
            value += c[k] * e;
            slope += s[k] * e;
        }
        value_sum += value;
        slope_sum += slope;
        column[j] += slope;
        g[j] = slope;
    }
    *values = value_sum;
    *sums = slope_sum;
}

/* Squared length of the difference of two rows, times `inverse`. */
static inline __attribute__((always_inline)) REAL NAME(apart)(
    const REAL *restrict a, const REAL *restrict b, REAL inverse, Py_ssize_t width)
{
    REAL sum = 0;
#pragma omp simd reduction(+ : sum)
    for (Py_ssize_t k = 0; k < width; k++) {
        REAL value = (a[k] - b[k]) * inverse;
        sum += value * value;
    }
    return sum;
}

/* Write the columns of a segment that are near row i to `found`; return their number. */
static inline __attribute__((always_inline)) int NAME(find_near)(
    const Tile *tile, Py_ssize_t i, Py_ssize_t begin, Py_ssize_t length, const REAL *restrict g, REAL na,
    const REAL *restrict nb, int *found)
{
    REAL limit = (REAL)tile->near;
    int some = 0, count = 0;
#pragma omp simd reduction(+ : some)
    for (Py_ssize_t j = 0; j < length; j++)
        some += (g[j] + g[j]) + (na + nb[j]) > limit * (na + nb[j]);
    if (some == 0 || (some == 1 && tile->same && i >= begin && i < begin + length))
        return 0; /* a row paired with itself */
    for (Py_ssize_t j = 0; j < length; j++)
        if ((g[j] + g[j]) + (na + nb[j]) > limit * (na + nb[j]) && !(tile->same && begin + j == i))
            found[count++] = (int)j;
    return count;
}

/* After `stretch`: recompute near columns from row differences; their derivatives go to the list `near`. */
static inline __attribute__((always_inline)) void NAME(settle_near)(
    const Tile *tile, int kind, int doublings, double by, Py_ssize_t i, Py_ssize_t begin, REAL *restrict g,
    REAL *restrict v, const int *found, int count, Near *near)
{
    if (!tile->rows_a) { /* only count them */
        near->count += count;
        return;
    }
    const REAL *a = (const REAL *)tile->rows_a + i * tile->width, *matrix = tile->matrix, zero = 0;
    for (int k = 0; k < count; k++) {
        Py_ssize_t j = begin + found[k];
        const REAL *b = (const REAL *)tile->rows_b + j * tile->width;
        REAL square = NAME(apart)(a, b, (REAL)tile->inverse, tile->width), value, x, u, slope = 0;
        NAME(stretch)(tile, kind, doublings, by, 1, &slope, -square, &zero, &value, &x, &u);
        v[found[k]] = value;
        g[found[k]] = 0;
        if (matrix)
            slope *= matrix[i * tile->matrix_stride + j];
        add_near(near, i, j, (double)slope);
    }
}

/* Add the derivatives of near pairs times their row differences to the gradients of both rows. */
ATTRIBUTE static void NAME(spread_near)(const Tile *tile, const Near *near)
{
    const REAL *sum_left = tile->sum_left, *sum_right = tile->sum_right;
    REAL inverse = (REAL)tile->inverse;
    for (Py_ssize_t k = 0; k < near->count; k++) {
        Py_ssize_t i = near->pairs[k].i, j = near->pairs[k].j, width = tile->width;
        const REAL *restrict a = (const REAL *)tile->rows_a + i * width, *restrict b = (const REAL *)tile->rows_b + j * width;
        REAL slope = (REAL)near->pairs[k].slope;
        if (tile->grad_a) {
            REAL *restrict to = (REAL *)tile->grad_a + i * width, by = sum_right ? slope * sum_right[j] : slope;
#pragma omp simd
            for (Py_ssize_t c = 0; c < width; c++)
                to[c] += (b[c] - a[c]) * inverse * by;
        }
        if (tile->grad_b) {
            REAL *restrict to = (REAL *)tile->grad_b + j * width, by = sum_left ? slope * sum_left[i] : slope;
#pragma omp simd
            for (Py_ssize_t c = 0; c < width; c++)
                to[c] += (a[c] - b[c]) * inverse * by;
        }
    }
}

/* Process rows of a tile: derivatives overwrite products; also the sum of values and the sums of derivatives over rows
   and columns. */
static inline __attribute__((always_inline)) double NAME(tile_body)(
    const Tile *tile, int kind, int doublings, Py_ssize_t first, Py_ssize_t last, REAL *columns, Near *near)
{
    REAL v[CHUNK], x[CHUNK], u[CHUNK];
    int found[CHUNK];
    const REAL *na = tile->na, *nb = tile->nb, *matrix = tile->matrix;
    const REAL *value_left = tile->value_left, *value_right = tile->value_right;
    const REAL *sum_left = tile->sum_left, *sum_right = tile->sum_right;
    REAL *row_sums = tile->row_sums, *kept = tile->kept;
    int plain = !kept && doublings && columns && row_sums && !tile->same && !matrix && !value_left && !sum_left;
    double total = 0;
    for (Py_ssize_t i = first; i < last; i++) {
        double value = 0, sum = 0;
        REAL weight = sum_left ? sum_left[i] : 1;
        for (Py_ssize_t begin = 0, length; begin < tile->columns; begin += length) {
            /* up to the end, or to the first column of the second group */
            Py_ssize_t end = begin < tile->split ? tile->split : tile->columns;
            length = end - begin < CHUNK ? end - begin : CHUNK;
            double by = tile->factors[(i >= tile->split) + (begin >= tile->split)];
            REAL *restrict g = (REAL *)tile->t + i * tile->stride + begin;
            REAL some = 0, slope = 0;
            int close = tile->near > 0 ? NAME(find_near)(tile, i, begin, length, g, na[i], nb + begin, found) : 0;
            if (plain && !close) {
                NAME(plain_stretch)(tile, doublings, by, length, g, na[i], nb + begin, columns + begin, &some, &slope);
                value += by * some;
                sum += slope;
                continue;
            }
            NAME(stretch)(tile, kind, doublings, by, length, g, na[i], nb + begin, v, x, u);
            if (close)
                NAME(settle_near)(tile, kind, doublings, by, i, begin, g, v, found, close, near);
            if (tile->same && i >= begin && i < begin + length)
                v[i - begin] = g[i - begin] = 0;
            if (kept)
                memcpy(kept + i * tile->columns + begin, v, (size_t)length * sizeof(REAL));
            if (matrix) {
                const REAL *restrict m = matrix + i * tile->matrix_stride + begin;
#pragma omp simd
                for (Py_ssize_t j = 0; j < length; j++) {
                    v[j] *= m[j];
                    g[j] *= m[j];
                }
            }
            if (value_right) {
                const REAL *restrict w = value_right + begin;
#pragma omp simd reduction(+ : some)
                for (Py_ssize_t j = 0; j < length; j++)
                    some += v[j] * w[j];
            } else {
#pragma omp simd reduction(+ : some)
                for (Py_ssize_t j = 0; j < length; j++)
                    some += v[j];
            }
            value += by * some;
            if (!row_sums)
                continue;
            if (sum_right) {
                const REAL *restrict w = sum_right + begin;
#pragma omp simd reduction(+ : slope)
                for (Py_ssize_t j = 0; j < length; j++)
                    slope += g[j] * w[j];
            } else {
#pragma omp simd reduction(+ : slope)
                for (Py_ssize_t j = 0; j < length; j++)
                    slope += g[j];
            }
            sum += slope;
            if (columns) {
                REAL *restrict column = columns + begin;
#pragma omp simd
                for (Py_ssize_t j = 0; j < length; j++)
                    column[j] += g[j] * weight;
            }
        }
        total += value_left ? value * value_left[i] : value;
        if (row_sums)
            row_sums[i] += (REAL)sum;
    }
    return total;
}

ATTRIBUTE static double NAME(tile)(const Tile *tile, Py_ssize_t first, Py_ssize_t last, REAL *columns, Near *near)
{
    switch (tile->kind) {
    case GAUSSIAN:
        switch (tile->doublings) {
        case 1: return NAME(tile_body)(tile, GAUSSIAN, 1, first, last, columns, near);
        case 2: return NAME(tile_body)(tile, GAUSSIAN, 2, first, last, columns, near);
        case 3: return NAME(tile_body)(tile, GAUSSIAN, 3, first, last, columns, near);
        case 4: return NAME(tile_body)(tile, GAUSSIAN, 4, first, last, columns, near);
        case 5: return NAME(tile_body)(tile, GAUSSIAN, 5, first, last, columns, near);
        default: return NAME(tile_body)(tile, GAUSSIAN, 0, first, last, columns, near);
        }
    case LAPLACIAN: return NAME(tile_body)(tile, LAPLACIAN, 0, first, last, columns, near);
    case ENERGY: return NAME(tile_body)(tile, ENERGY, 0, first, last, columns, near);
    default: return NAME(tile_body)(tile, RATIONAL, 0, first, last, columns, near);
    }
}

/* z = (x - centre) * inverse, and norms = -|z|^2; the largest |z|^2. */
ATTRIBUTE static double NAME(scaled_rows)(
    const REAL *restrict x, const REAL *restrict centre, REAL inverse, Py_ssize_t rows, Py_ssize_t width,
    REAL *restrict z, REAL *restrict norms)
{
    REAL largest = 0;
    for (Py_ssize_t i = 0; i < rows; i++) {
        const REAL *restrict from = x + i * width;
        REAL *restrict to = z + i * width;
        REAL sum = 0;
#pragma omp simd reduction(+ : sum)
        for (Py_ssize_t k = 0; k < width; k++) {
            REAL value = (from[k] - centre[k]) * inverse;
            to[k] = value;
            sum += value * value;
        }
        norms[i] = -sum;
        largest = NAME(most)(largest, sum);
    }
    return largest;
}

/* sums += the rows, in float64 */
ATTRIBUTE static void NAME(add_rows)(
    const REAL *restrict x, Py_ssize_t rows, Py_ssize_t width, double *restrict sums)
{
    for (Py_ssize_t i = 0; i < rows; i++) {
        const REAL *restrict from = x + i * width;
#pragma omp simd
        for (Py_ssize_t k = 0; k < width; k++)
            sums[k] += from[k];
    }
}

/* g = (g - sums z) * scale, times the row weight */
ATTRIBUTE static void NAME(finish)(
    REAL *restrict g, const REAL *restrict sums, const REAL *restrict z, const REAL *restrict weight, REAL scale,
    Py_ssize_t rows, Py_ssize_t width)
{
    for (Py_ssize_t i = 0; i < rows; i++) {
        REAL *restrict to = g + i * width;
        const REAL *restrict from = z + i * width;
        REAL sum = sums[i], factor = weight ? weight[i] * scale : scale;
#pragma omp simd
        for (Py_ssize_t k = 0; k < width; k++)
            to[k] = (to[k] - sum * from[k]) * factor;
    }
}

/* Replace base-2 logits s * scale by their powers, and add these to the sums of rows and columns. */
ATTRIBUTE static void NAME(powers)(const Logits *a, Py_ssize_t first, Py_ssize_t last, REAL *columns)
{
    REAL scale = (REAL)a->scale, *row_sums = a->row_sums;
    for (Py_ssize_t i = first; i < last; i++) {
        double sum = 0;
        for (Py_ssize_t begin = 0; begin < a->columns; begin += CHUNK) {
            Py_ssize_t length = a->columns - begin < CHUNK ? a->columns - begin : CHUNK;
            REAL *restrict s = (REAL *)a->s + i * a->stride + begin, some = 0;
            if (columns) {
                REAL *restrict column = columns + begin;
#pragma omp simd reduction(+ : some)
                for (Py_ssize_t j = 0; j < length; j++) {
                    REAL e = NAME(power)(s[j] * scale);
                    s[j] = e;
                    some += e;
                    column[j] += e;
                }
            } else {
#pragma omp simd reduction(+ : some)
                for (Py_ssize_t j = 0; j < length; j++) {
                    REAL e = NAME(power)(s[j] * scale);
                    s[j] = e;
                    some += e;
                }
            }
            sum += some;
        }
        row_sums[i] += (REAL)sum;
    }
}

/* Replace products by base-2 logits s * scale; update the largest logits of rows and columns and the sums of 2^(logit -
   largest). Logits are rounded before the subtraction, so that the largest gives exactly 2^0. */
ATTRIBUTE static void NAME(tops)(const Logits *a, Py_ssize_t first, Py_ssize_t last, REAL *columns)
{
    REAL scale = (REAL)a->scale, *row_tops = a->row_tops, *row_sums = a->row_sums;
    for (Py_ssize_t i = first; i < last; i++) {
        REAL *restrict s = (REAL *)a->s + i * a->stride;
        REAL top = row_tops[i], before = top, sum = 0;
#pragma omp simd reduction(max : top)
        for (Py_ssize_t j = 0; j < a->columns; j++) {
            REAL logit = s[j] * scale;
            s[j] = logit;
            top = top < logit ? logit : top;
        }
#pragma omp simd reduction(+ : sum)
        for (Py_ssize_t j = 0; j < a->columns; j++)
            sum += NAME(power)(s[j] - top);
        row_tops[i] = top;
        row_sums[i] = row_sums[i] * NAME(power)(before - top) + sum;
    }
    if (!columns)
        return;
    REAL *restrict tops = columns, *restrict sums = columns + a->columns, limits[CHUNK];
    for (Py_ssize_t begin = 0; begin < a->columns; begin += CHUNK) {
        Py_ssize_t length = a->columns - begin < CHUNK ? a->columns - begin : CHUNK;
        for (Py_ssize_t start = first; start < last; start += STRIP) {
            Py_ssize_t stop = last - start < STRIP ? last : start + STRIP;
            memcpy(limits, tops + begin, (size_t)length * sizeof(REAL));
            for (Py_ssize_t i = start; i < stop; i++) {
                const REAL *restrict s = (const REAL *)a->s + i * a->stride + begin;
#pragma omp simd
                for (Py_ssize_t j = 0; j < length; j++)
                    limits[j] = NAME(most)(limits[j], s[j]);
            }
#pragma omp simd
            for (Py_ssize_t j = 0; j < length; j++) {
                REAL top = limits[j];
                sums[begin + j] *= NAME(power)(tops[begin + j] - top);
                tops[begin + j] = top;
            }
            for (Py_ssize_t i = start; i < stop; i++) {
                const REAL *restrict s = (const REAL *)a->s + i * a->stride + begin;
#pragma omp simd
                for (Py_ssize_t j = 0; j < length; j++)
                    sums[begin + j] += NAME(power)(s[j] - tops[begin + j]);
            }
        }
    }
}

/* Overwrite the tile with softmax over rows plus softmax over columns, times `share`, minus `own` on the diagonal.

   `row_sums` and `column_sums` hold reciprocals times `share`. form KEPT: the tile holds powers; PLAIN: products whose
   powers need no shift; LOGITS: logits, with the largest of rows and columns; PRODUCTS: products, from which logits are
   computed first. */
static inline __attribute__((always_inline)) void NAME(shares_body)(
    const Logits *a, int form, int both, Py_ssize_t first, Py_ssize_t last)
{
    REAL scale = (REAL)a->scale;
    const REAL *row_sums = a->row_sums, *row_tops = a->row_tops;
    const REAL *restrict column_sums = a->column_sums, *restrict column_tops = a->column_tops;
    for (Py_ssize_t i = first; i < last; i++) {
        REAL *restrict s = (REAL *)a->s + i * a->stride;
        REAL row = row_sums[i], top = form == LOGITS ? row_tops[i] : 0;
        if (a->form == PRODUCTS) {
#pragma omp simd
            for (Py_ssize_t j = 0; j < a->columns; j++)
                s[j] *= scale;
        }
#pragma omp simd
        for (Py_ssize_t j = 0; j < a->columns; j++) {
            if (form == LOGITS) {
                REAL logit = s[j];
                REAL p = NAME(power)(logit - top) * row;
                s[j] = both ? p + NAME(power)(logit - column_tops[j]) * column_sums[j] : p;
            } else {
                REAL e = form == KEPT ? s[j] : NAME(power)(s[j] * scale);
                s[j] = e * (both ? row + column_sums[j] : row);
            }
        }
        if (a->own != 0)
            s[i] -= (REAL)a->own;
    }
}

ATTRIBUTE static void NAME(shares)(const Logits *a, Py_ssize_t first, Py_ssize_t last, REAL *unused)
{
    (void)unused;
    int both = a->column_sums != NULL;
    switch (a->form) {
    case KEPT: both ? NAME(shares_body)(a, KEPT, 1, first, last) : NAME(shares_body)(a, KEPT, 0, first, last); break;
    case PLAIN: both ? NAME(shares_body)(a, PLAIN, 1, first, last) : NAME(shares_body)(a, PLAIN, 0, first, last); break;
    default: both ? NAME(shares_body)(a, LOGITS, 1, first, last) : NAME(shares_body)(a, LOGITS, 0, first, last);
    }
}

/* Replace the logits x = s * scale + bias of a sigmoid by the derivatives of log(1 + e^x). `columns` are two float64
   sums: of log(1 + e^x) and of the derivatives. With weights of rows (`row_sums`) and columns (`column_sums`), both are
   multiplied by the product of the weights. */
static inline __attribute__((always_inline)) void NAME(pairwise_body)(
    const Logits *a, int weighted, Py_ssize_t first, Py_ssize_t last, double *sums)
{
    REAL scale = (REAL)a->scale, bias = (REAL)a->bias;
    const REAL *row_weights = a->row_sums;
    for (Py_ssize_t i = first; i < last; i++) {
        REAL by = weighted ? row_weights[i] : 1;
        for (Py_ssize_t begin = 0; begin < a->columns; begin += CHUNK) {
            Py_ssize_t length = a->columns - begin < CHUNK ? a->columns - begin : CHUNK;
            REAL *restrict s = (REAL *)a->s + i * a->stride + begin, value = 0, slope = 0;
            const REAL *restrict w = weighted ? (const REAL *)a->column_sums + begin : NULL;
#pragma omp simd reduction(+ : value, slope)
            for (Py_ssize_t j = 0; j < length; j++) {
                REAL x = s[j] * scale + bias, down = x < 0 ? x : -x;
                REAL p = NAME(power)(down * (REAL)1.4426950408889634);
                /* log(1 + p) = 2 artanh(p / (2 + p)): accurate for small p */
                REAL part = p / (2 + p), square = part * part, series = 0;
                for (int k = ARTANH; k >= 0; k--)
                    series = series * square + (REAL)(2.0 / (2 * k + 1));
                REAL each = NAME(most)(x, 0) + part * series;
                REAL g = (x < 0 ? p : 1) / (1 + p);
                if (weighted) {
                    REAL weight = by * w[j];
                    each *= weight;
                    g *= weight;
                }
                value += each;
                slope += g;
                s[j] = g;
            }
            sums[0] += value;
            sums[1] += slope;
        }
    }
}

ATTRIBUTE static void NAME(pairwise)(const Logits *a, Py_ssize_t first, Py_ssize_t last, REAL *columns)
{
    double *sums = (double *)(void *)columns;
    if (a->column_sums)
        NAME(pairwise_body)(a, 1, first, last, sums);
    else
        NAME(pairwise_body)(a, 0, first, last, sums);
}
