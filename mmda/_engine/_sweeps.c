/* Elementwise loops over tiles, one pass each. The Python side, mmda/_engine/native.py and its neighbours, documents
   the functions and owns the tensors. Every function has a slower equivalent in PyTorch operations, used if this file
   could not be compiled.

   Arguments are addresses and numbers; the caller is responsible for sizes. On x86, denormal numbers of a tile are
   flushed to zero. Loops are compiled for several instruction sets, of which the best supported one is used. */

#define INTERFACE 6 /* increase with any change of arguments, here and in native.py */
#define Py_LIMITED_API 0x030A0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#if defined(Py_GIL_DISABLED)
#error "requires the interpreter with the GIL; without this extension PyTorch operations are used"
#endif
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
#define X86 1
#include <xmmintrin.h>
#if defined(__clang__)
#define AVX512 "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"
#else
#define AVX512 "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,prefer-vector-width=512"
#endif
#endif
#if defined(_MSC_VER)
#define restrict __restrict
#define __attribute__(x)
#endif

enum { GAUSSIAN, LAPLACIAN, ENERGY, RATIONAL };
enum { KEPT, PLAIN, LOGITS, PRODUCTS };
enum { MOST_DOUBLINGS = 5, CHUNK = 512, STRIP = 32, LEAST_WORK = 1 << 15 };

typedef struct {
    int kind, doublings, same, steps;
    const double *fresh, *counts, *slopes;
    double factors[3]; /* for pairs within the first group (`split` rows), across, within the second */
    Py_ssize_t split, rows, columns, stride, matrix_stride;
    void *t;
    const void *na, *nb, *matrix, *value_left, *value_right, *sum_left, *sum_right;
    void *row_sums, *column_sums, *kept; /* kept: the values (rows, columns) are written here, if not null */
    /* Pairs whose squared distance is below `near` times the sum of their squared lengths (0: none) are recomputed from
       the difference of the unscaled rows, times `inverse`; their gradients are added directly. */
    double near, inverse;
    const void *rows_a, *rows_b;
    Py_ssize_t width, most;
    void *grad_a, *grad_b;
} Tile;

typedef struct {
    Py_ssize_t i, j;
    double slope;
} NearPair;

/* Near pairs found by one thread; at most `most` are stored, all are counted. */
typedef struct {
    NearPair *pairs;
    Py_ssize_t count, space, most;
} Near;

static void add_near(Near *near, Py_ssize_t i, Py_ssize_t j, double slope)
{
    if (near->count < near->most && near->count >= near->space) {
        Py_ssize_t space = near->space ? 2 * near->space : 256;
        NearPair *pairs = realloc(near->pairs, (size_t)space * sizeof(NearPair));
        if (pairs) {
            near->pairs = pairs;
            near->space = space;
        } else
            near->most = -1; /* out of memory */
    }
    if (near->count < near->space) {
        NearPair pair = {i, j, slope};
        near->pairs[near->count] = pair;
    }
    near->count++;
}

typedef struct {
    int form;
    double scale, bias, own;
    Py_ssize_t rows, columns, stride;
    void *s, *row_tops, *row_sums, *column_tops, *column_sums;
} Logits;

#define JOIN_(a, b, c) a##_##b##_##c
#define JOIN(a, b, c) JOIN_(a, b, c)
#define NAME(x) JOIN(x, TYPE, SET)
#define C(k) ((REAL)coefficients[k])

/* Polynomials of 2^x on [-1/2, 1/2]: minimax with relative error 2e-9, and Taylor of degree 13 with 4e-17. */
static const double coefficients_float[] = {
    0.00015353360504377633, 0.0013398875016719103, 0.00961843691766262, 0.055503323674201965,
    0.24022647738456726,    0.6931471824645996,    1.0,
};
static const double coefficients_double[] = {
    1.3691488853904128e-12, 2.5678435993488206e-11, 4.4455382718708116e-10, 7.0549116208011234e-09,
    1.0178086009239699e-07, 1.3215486790144309e-06, 1.5252733804059840e-05, 1.5403530393381609e-04,
    1.3333558146428443e-03, 9.6181291076284772e-03, 5.5504108664821580e-02, 2.4022650695910072e-01,
    6.9314718055994531e-01, 1.0,
};

#define STEP(k) p = p * part_ + C(k);
#define FLOAT_STEPS STEP(1) STEP(2) STEP(3) STEP(4) STEP(5) STEP(6)
#define DOUBLE_STEPS FLOAT_STEPS STEP(7) STEP(8) STEP(9) STEP(10) STEP(11) STEP(12) STEP(13)

/* float */
#define REAL float
#define BITS int32_t
#define UBITS uint32_t
#define TYPE float
#define coefficients coefficients_float
#define EACH_COEFFICIENT(x) { REAL part_ = (x); FLOAT_STEPS }
#define MAGIC 12583039.0f /* 1.5 2^23 + 127 */
#define MANTISSA 23
#define LOW_EXPONENT (-127)
#define SQRT sqrtf
#define ARTANH 8
#define SET plain
#define ATTRIBUTE
#include "_sweeps.h"
#if X86
#undef SET
#undef ATTRIBUTE
#define SET avx2
#define ATTRIBUTE __attribute__((target("avx2,fma")))
#include "_sweeps.h"
#undef SET
#undef ATTRIBUTE
#define SET avx512
#define ATTRIBUTE __attribute__((target(AVX512)))
#include "_sweeps.h"
#endif
#undef REAL
#undef BITS
#undef UBITS
#undef TYPE
#undef coefficients
#undef EACH_COEFFICIENT
#undef MAGIC
#undef MANTISSA
#undef LOW_EXPONENT
#undef SQRT
#undef ARTANH
#undef SET
#undef ATTRIBUTE

/* double */
#define REAL double
#define BITS int64_t
#define UBITS uint64_t
#define TYPE double
#define coefficients coefficients_double
#define EACH_COEFFICIENT(x) { REAL part_ = (x); DOUBLE_STEPS }
#define MAGIC 6755399441056767.0 /* 1.5 2^52 + 1023 */
#define MANTISSA 52
#define LOW_EXPONENT (-1023)
#define SQRT sqrt
#define ARTANH 17
#define SET plain
#define ATTRIBUTE
#include "_sweeps.h"
#if X86
#undef SET
#undef ATTRIBUTE
#define SET avx2
#define ATTRIBUTE __attribute__((target("avx2,fma")))
#include "_sweeps.h"
#undef SET
#undef ATTRIBUTE
#define SET avx512
#define ATTRIBUTE __attribute__((target(AVX512)))
#include "_sweeps.h"
#endif

/* The functions of one instruction set, for floats and for doubles. */
typedef double (*TileFunction)(const Tile *, Py_ssize_t, Py_ssize_t, void *, Near *);
typedef void (*LogitsFunction)(const Logits *, Py_ssize_t, Py_ssize_t, void *);
typedef struct {
    TileFunction tile[2];
    LogitsFunction powers[2], tops[2], shares[2], pairwise[2];
    void (*spread_near[2])(const Tile *, const Near *);
    double (*scaled_rows_float)(const float *, const float *, float, Py_ssize_t, Py_ssize_t, float *, float *);
    double (*scaled_rows_double)(const double *, const double *, double, Py_ssize_t, Py_ssize_t, double *, double *);
    void (*add_rows_float)(const float *, Py_ssize_t, Py_ssize_t, double *);
    void (*add_rows_double)(const double *, Py_ssize_t, Py_ssize_t, double *);
    void (*finish_float)(float *, const float *, const float *, const float *, float, Py_ssize_t, Py_ssize_t);
    void (*finish_double)(double *, const double *, const double *, const double *, double, Py_ssize_t, Py_ssize_t);
} Functions;

#define FUNCTIONS(set)                                                                                                 \
    {                                                                                                                  \
        {(TileFunction)tile_float_##set, (TileFunction)tile_double_##set},                                             \
            {(LogitsFunction)powers_float_##set, (LogitsFunction)powers_double_##set},                                 \
            {(LogitsFunction)tops_float_##set, (LogitsFunction)tops_double_##set},                                     \
            {(LogitsFunction)shares_float_##set, (LogitsFunction)shares_double_##set},                                 \
            {(LogitsFunction)pairwise_float_##set, (LogitsFunction)pairwise_double_##set},                             \
            {spread_near_float_##set, spread_near_double_##set}, scaled_rows_float_##set, scaled_rows_double_##set,    \
            add_rows_float_##set, add_rows_double_##set, finish_float_##set,                 \
            finish_double_##set                                                                                        \
    }

static const Functions plain = FUNCTIONS(plain);
#if X86
static const Functions avx2 = FUNCTIONS(avx2), avx512 = FUNCTIONS(avx512);
#endif
static const Functions *use = &plain;

enum { SET_PLAIN, SET_AVX2, SET_AVX512 };

/* Select the best instruction set that the processor supports, up to this one; return it. */
static int choose(int best)
{
    use = &plain;
#if X86
    __builtin_cpu_init();
    if (best >= SET_AVX512 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
        use = &avx512;
        return SET_AVX512;
    }
    if (best >= SET_AVX2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        use = &avx2;
        return SET_AVX2;
    }
#else
    (void)best;
#endif
    return SET_PLAIN;
}

/* Threads are those of the OpenMP library loaded by PyTorch, if its symbols are found; otherwise only the calling
   thread. A separate pool would compete with these threads, which spin for a while after their work. */
typedef void (*Parallel)(void (*)(void *), void *, unsigned, unsigned);
typedef int (*ThreadNumber)(void);
static Parallel parallel_region;
static ThreadNumber thread_number, team_size;

#if defined(__linux__) && (defined(__GNUC__) || defined(__clang__))
/* Weak symbols: null if no loaded library defines them. (dlsym would also work, but bind to the C library of the build
   machine.) */
__attribute__((weak)) void GOMP_parallel(void (*)(void *), void *, unsigned, unsigned);
__attribute__((weak)) int omp_get_thread_num(void);
__attribute__((weak)) int omp_get_num_threads(void);
#endif

static void find_threads(void)
{
#if defined(__linux__) && (defined(__GNUC__) || defined(__clang__))
    parallel_region = GOMP_parallel;
    thread_number = omp_get_thread_num;
    team_size = omp_get_num_threads;
#endif
}

/* Allocate whole cache lines, aligned to a cache line. */
enum { LINE = 64 };

static char *space(int parts, Py_ssize_t *size, void **made)
{
    *size = (*size + LINE - 1) / LINE * LINE;
    *made = calloc((size_t)parts * (size_t)*size + LINE, 1);
    return *made ? (char *)(((uintptr_t)*made + LINE - 1) / LINE * LINE) : NULL;
}

typedef struct {
    const Tile *tile;
    const Logits *logits;
    TileFunction tile_function;
    LogitsFunction logits_function;
    Py_ssize_t rows, columns_size;
    int threads;
    char *columns;
    void *made;
    double *values;
    Near *near;
} Job;

static void part(Job *job, int index)
{
#if X86
    unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040); /* flush denormals to zero, as they are about a hundred times slower */
#endif
    Py_ssize_t first = job->rows * index / job->threads, last = job->rows * (index + 1) / job->threads;
    void *columns = job->columns ? job->columns + job->columns_size * index : NULL;
    if (job->tile_function)
        job->values[index] = job->tile_function(job->tile, first, last, columns, job->near + index);
    else
        job->logits_function(job->logits, first, last, columns);
#if X86
    _mm_setcsr(before);
#endif
}

/* The team may be smaller than requested; its threads then process several parts each. */
static void threaded_part(void *shared)
{
    Job *job = shared;
    for (int k = thread_number(), size = team_size(); k < job->threads; k += size)
        part(job, k);
}

/* Distribute the rows over threads; each has its own accumulators for columns and values. */
static void run(Job *job, Py_ssize_t columns)
{
    if (!parallel_region || !thread_number || !team_size || job->rows < job->threads || job->rows * columns < LEAST_WORK)
        job->threads = 1;
    if (job->threads > 1)
        parallel_region(threaded_part, job, (unsigned)job->threads, 0);
    else
        part(job, 0);
}

enum { MOST_THREADS = 256 };

static int some_threads(Py_ssize_t threads) { return threads < 1 ? 1 : threads > MOST_THREADS ? MOST_THREADS : (int)threads; }

#define ADD_COLUMNS(real)                                                                                              \
    {                                                                                                                  \
        const real *from = (const real *)(job->columns + job->columns_size * k);                                       \
        real *to = (real *)sums;                                                                                       \
        for (Py_ssize_t j = 0; j < columns; j++)                                                                       \
            to[j] += from[j];                                                                                          \
    }

static void add_columns(const Job *job, int is_double, Py_ssize_t columns, void *sums)
{
    for (int k = 0; k < job->threads; k++)
        if (is_double)
            ADD_COLUMNS(double)
        else
            ADD_COLUMNS(float)
}

/* Arguments: addresses and numbers read in order, from a call or from a tuple argument. */
typedef struct {
    PyObject *const *values; /* NULL: read from the tuple */
    Py_ssize_t next;
    PyObject *tuple;
} Arguments;

static PyObject *item(Arguments *a) { return a->values ? a->values[a->next++] : PyTuple_GetItem(a->tuple, a->next++); }
static void *address(Arguments *a) { return PyLong_AsVoidPtr(item(a)); }
static Py_ssize_t count(Arguments *a) { return PyLong_AsSsize_t(item(a)); }
static double number(Arguments *a) { return PyFloat_AsDouble(item(a)); }

/* Read the next argument as a tuple of this length. 0 with an exception set if it is not one. */
static int group(Arguments *a, Py_ssize_t wanted, Arguments *of)
{
    of->values = NULL;
    of->next = 0;
    of->tuple = item(a);
    if (PyTuple_Check(of->tuple) && PyTuple_Size(of->tuple) == wanted)
        return 1;
    PyErr_Format(PyExc_TypeError, "argument %zd must be a tuple of %zd", a->next, wanted);
    return 0;
}

static int expect(Py_ssize_t given, Py_ssize_t wanted)
{
    if (given == wanted)
        return 1;
    PyErr_Format(PyExc_TypeError, "%zd arguments expected, got %zd", wanted, given);
    return 0;
}

/* tile(double, threads, kernel, groups, products, norms, matrix, value weights, sum weights, sums, near)
   -> value, or None if more than `most` pairs are near. Groups of arguments are tuples, rows before columns:
   kernel: kind, doublings, steps, fresh, counts, slopes; groups: factor within the first, across, within the second,
   split, same; products: address, stride, rows, columns, and where values are kept; matrix: address, stride; near: share, inverse, rows, columns,
   width, most, gradient of rows, of columns. */
static PyObject *py_tile(PyObject *self, PyObject *const *values, Py_ssize_t given)
{
    (void)self;
    if (!expect(given, 11))
        return NULL;
    Arguments a = {values, 0, NULL}, of;
    int is_double = (int)count(&a), threads = some_threads(count(&a));
    Tile t;
    if (!group(&a, 6, &of))
        return NULL;
    t.kind = (int)count(&of);
    t.doublings = (int)count(&of);
    t.steps = (int)count(&of);
    t.fresh = address(&of);
    t.counts = address(&of);
    t.slopes = address(&of);
    if (!group(&a, 5, &of))
        return NULL;
    for (int k = 0; k < 3; k++)
        t.factors[k] = number(&of);
    t.split = count(&of);
    t.same = (int)count(&of);
    if (!group(&a, 5, &of))
        return NULL;
    t.t = address(&of);
    t.stride = count(&of);
    t.rows = count(&of);
    t.columns = count(&of);
    t.kept = address(&of);
    if (!group(&a, 2, &of))
        return NULL;
    t.na = address(&of);
    t.nb = address(&of);
    if (!group(&a, 2, &of))
        return NULL;
    t.matrix = address(&of);
    t.matrix_stride = count(&of);
    if (!group(&a, 2, &of))
        return NULL;
    t.value_left = address(&of);
    t.value_right = address(&of);
    if (!group(&a, 2, &of))
        return NULL;
    t.sum_left = address(&of);
    t.sum_right = address(&of);
    if (!group(&a, 2, &of))
        return NULL;
    t.row_sums = address(&of);
    t.column_sums = address(&of);
    if (!group(&a, 8, &of))
        return NULL;
    t.near = number(&of);
    t.inverse = number(&of);
    t.rows_a = address(&of);
    t.rows_b = address(&of);
    t.width = count(&of);
    t.most = count(&of);
    t.grad_a = address(&of);
    t.grad_b = address(&of);
    if (PyErr_Occurred())
        return NULL;
    double sums[MOST_THREADS], value = 0;
    Near near[MOST_THREADS];
    for (int k = 0; k < threads; k++) {
        Near none = {NULL, 0, 0, t.most};
        near[k] = none;
    }
    Job job = {&t, NULL, use->tile[is_double], NULL, t.rows, t.columns * (is_double ? 8 : 4), threads, NULL, NULL, sums, near};
    Py_ssize_t pairs = 0;
    int short_of_memory = 0;
    if (t.column_sums && !(job.columns = space(threads, &job.columns_size, &job.made)))
        return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    run(&job, t.columns);
    for (int k = 0; k < job.threads; k++)
        value += sums[k];
    if (t.column_sums)
        add_columns(&job, is_double, t.columns, t.column_sums);
    free(job.made);
    for (int k = 0; k < job.threads; k++) {
        pairs += near[k].count;
        short_of_memory |= near[k].most < 0;
    }
    for (int k = 0; k < job.threads; k++) {
        if (pairs <= t.most && !short_of_memory)
            use->spread_near[is_double](&t, &near[k]);
        free(near[k].pairs);
    }
    Py_END_ALLOW_THREADS
    if (short_of_memory)
        return PyErr_NoMemory();
    if (pairs > t.most)
        Py_RETURN_NONE;
    return PyFloat_FromDouble(value);
}

/* prepare(double, x, rows of x, y, rows of y, width, centre or 0, inverse, z, norms) -> largest squared length */
static PyObject *py_prepare(PyObject *self, PyObject *const *values, Py_ssize_t given)
{
    (void)self;
    if (!expect(given, 10))
        return NULL;
    Arguments a = {values, 0, NULL};
    int is_double = (int)count(&a);
    char *x = address(&a);
    Py_ssize_t n = count(&a);
    char *y = address(&a);
    Py_ssize_t m = count(&a), width = count(&a), size = is_double ? 8 : 4;
    const void *centre = address(&a);
    double inverse = number(&a);
    char *z = address(&a), *norms = address(&a);
    if (PyErr_Occurred())
        return NULL;
    double largest = 0, *sums = calloc((size_t)width, 2 * sizeof(double));
    if (!sums)
        return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    void *mean = sums + width;
    if (!centre) {
        if (is_double) {
            use->add_rows_double((const double *)x, n, width, sums);
            use->add_rows_double((const double *)y, m, width, sums);
        } else {
            use->add_rows_float((const float *)x, n, width, sums);
            use->add_rows_float((const float *)y, m, width, sums);
        }
        for (Py_ssize_t k = 0; k < width; k++) {
            double value = sums[k] / (double)(n + m);
            if (is_double)
                ((double *)mean)[k] = value;
            else
                ((float *)mean)[k] = (float)value;
        }
        centre = mean;
    }
    for (int side = 0; side < 2; side++) {
        const char *from = side ? y : x;
        Py_ssize_t rows = side ? m : n, before = side ? n : 0;
        void *to = z + before * width * size, *lengths = norms + before * size;
        double found;
        if (is_double)
            found = use->scaled_rows_double((const double *)from, centre, inverse, rows, width, to, lengths);
        else
            found = use->scaled_rows_float((const float *)from, centre, (float)inverse, rows, width, to, lengths);
        largest = largest < found ? found : largest;
    }
    free(sums);
    Py_END_ALLOW_THREADS
    return PyFloat_FromDouble(largest);
}

/* finish(double, gradient, sums, z, weight or 0, scale, rows, width) */
static PyObject *py_finish(PyObject *self, PyObject *const *values, Py_ssize_t given)
{
    (void)self;
    if (!expect(given, 8))
        return NULL;
    Arguments a = {values, 0, NULL};
    int is_double = (int)count(&a);
    void *gradient = address(&a);
    const void *sums = address(&a), *z = address(&a), *weight = address(&a);
    double scale = number(&a);
    Py_ssize_t rows = count(&a), width = count(&a);
    if (PyErr_Occurred())
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    if (is_double)
        use->finish_double(gradient, sums, z, weight, scale, rows, width);
    else
        use->finish_float(gradient, sums, z, weight, (float)scale, rows, width);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static void logits_job(Job *job, const Logits *l, LogitsFunction function, int is_double, int threads)
{
    Job made = {NULL, l, NULL, function, l->rows, l->columns * (is_double ? 8 : 4), threads, NULL, NULL, NULL, NULL};
    *job = made;
}

/* Merge the columns' largest logits and sums of several threads into the totals. */
#define MERGE(real, power_of)                                                                                          \
    {                                                                                                                  \
        const real *tops = (const real *)(job->columns + job->columns_size * k), *sums = tops + columns;               \
        real *to_tops = (real *)l->column_tops, *to_sums = (real *)l->column_sums;                                     \
        for (Py_ssize_t j = 0; j < columns; j++) {                                                                     \
            real top = to_tops[j] < tops[j] ? tops[j] : to_tops[j];                                                    \
            to_sums[j] = to_sums[j] * power_of(to_tops[j] - top) + sums[j] * power_of(tops[j] - top);                  \
            to_tops[j] = top;                                                                                          \
        }                                                                                                              \
    }

/* The largest logits and sums of a tile's rows and columns, multithreaded; 0 if out of memory. */
static int find_tops(const Logits *l, int is_double, int threads)
{
    Py_ssize_t columns = l->columns;
    Job job_, *job = &job_;
    logits_job(job, l, use->tops[is_double], is_double, threads);
    if (l->column_tops) {
        job->columns_size *= 2;
        if (!(job->columns = space(threads, &job->columns_size, &job->made)))
            return 0;
        for (int k = 0; k < threads; k++) {
            char *place = job->columns + job->columns_size * k;
            for (Py_ssize_t j = 0; j < columns; j++)
                if (is_double)
                    ((double *)place)[j] = -DBL_MAX;
                else
                    ((float *)place)[j] = -FLT_MAX;
        }
    }
    run(job, columns);
    for (int k = 0; l->column_tops && k < job->threads; k++) {
        if (is_double)
            MERGE(double, exp2)
        else
            MERGE(float, exp2f)
    }
    free(job->made);
    return 1;
}

static void take_logits(Arguments *a, Logits *l)
{
    l->s = address(a);
    l->rows = count(a);
    l->columns = count(a);
    l->stride = count(a);
    l->scale = number(a);
}

/* powers(double, threads, s, rows, columns, stride, scale, row_sums, column_sums or 0) */
static PyObject *py_powers(PyObject *self, PyObject *const *values, Py_ssize_t given)
{
    (void)self;
    if (!expect(given, 9))
        return NULL;
    Arguments a = {values, 0, NULL};
    int is_double = (int)count(&a), threads = some_threads(count(&a));
    Logits l = {0};
    take_logits(&a, &l);
    l.row_sums = address(&a);
    l.column_sums = address(&a);
    if (PyErr_Occurred())
        return NULL;
    Job job;
    logits_job(&job, &l, use->powers[is_double], is_double, threads);
    if (l.column_sums && !(job.columns = space(threads, &job.columns_size, &job.made)))
        return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    run(&job, l.columns);
    if (l.column_sums)
        add_columns(&job, is_double, l.columns, l.column_sums);
    free(job.made);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

/* tops(double, threads, s, rows, columns, stride, scale, row_tops, row_sums, column_tops or 0, column_sums or 0) */
static PyObject *py_tops(PyObject *self, PyObject *const *values, Py_ssize_t given)
{
    (void)self;
    if (!expect(given, 11))
        return NULL;
    Arguments a = {values, 0, NULL};
    int is_double = (int)count(&a), threads = some_threads(count(&a)), done;
    Logits l = {0};
    take_logits(&a, &l);
    l.row_tops = address(&a);
    l.row_sums = address(&a);
    l.column_tops = address(&a);
    l.column_sums = address(&a);
    if (PyErr_Occurred())
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    done = find_tops(&l, is_double, threads);
    Py_END_ALLOW_THREADS
    if (!done)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

/* shares(double, threads, s, rows, columns, stride, scale, form, own, row_tops, row_sums, column_tops, column_sums) */
static PyObject *py_shares(PyObject *self, PyObject *const *values, Py_ssize_t given)
{
    (void)self;
    if (!expect(given, 13))
        return NULL;
    Arguments a = {values, 0, NULL};
    int is_double = (int)count(&a), threads = some_threads(count(&a));
    Logits l = {0};
    take_logits(&a, &l);
    l.form = (int)count(&a);
    l.own = number(&a);
    l.row_tops = address(&a);
    l.row_sums = address(&a);
    l.column_tops = address(&a);
    l.column_sums = address(&a);
    if (PyErr_Occurred())
        return NULL;
    Job job;
    logits_job(&job, &l, use->shares[is_double], is_double, threads);
    Py_BEGIN_ALLOW_THREADS
    run(&job, l.columns);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

/* pairwise(double, threads, s, rows, columns, stride, scale, bias, row weights or 0, column weights or 0)
       -> sum of log(1 + e^x), sum of its derivatives */
static PyObject *py_pairwise(PyObject *self, PyObject *const *values, Py_ssize_t given)
{
    (void)self;
    if (!expect(given, 10))
        return NULL;
    Arguments a = {values, 0, NULL};
    int is_double = (int)count(&a), threads = some_threads(count(&a));
    Logits l = {0};
    take_logits(&a, &l);
    l.bias = number(&a);
    l.row_sums = address(&a);
    l.column_sums = address(&a);
    if (PyErr_Occurred())
        return NULL;
    Job job;
    logits_job(&job, &l, use->pairwise[is_double], is_double, threads);
    job.columns_size = 2 * sizeof(double);
    if (!(job.columns = space(threads, &job.columns_size, &job.made)))
        return PyErr_NoMemory();
    double value = 0, slope = 0;
    Py_BEGIN_ALLOW_THREADS
    run(&job, l.columns);
    for (int k = 0; k < job.threads; k++) {
        const double *sums = (const double *)(void *)(job.columns + job.columns_size * k);
        value += sums[0];
        slope += sums[1];
    }
    free(job.made);
    Py_END_ALLOW_THREADS
    return Py_BuildValue("dd", value, slope);
}

/* The loss from the full logit matrix, which is overwritten by the gradient. */
#define AT_ONCE(real, log2_of)                                                                                         \
    {                                                                                                                  \
        real *tops = memory, *sums = tops + n, *column_tops = sums + n, *column_sums = column_tops + n;                \
        const real *s = l.s;                                                                                           \
        for (Py_ssize_t i = 0; i < n; i++) {                                                                           \
            tops[i] = column_tops[i] = (real) - (sizeof(real) == 8 ? DBL_MAX : FLT_MAX);                               \
            sums[i] = column_sums[i] = 0;                                                                              \
        }                                                                                                              \
        l.row_tops = tops;                                                                                             \
        l.row_sums = sums;                                                                                             \
        l.column_tops = symmetric ? column_tops : NULL;                                                                \
        l.column_sums = symmetric ? column_sums : NULL;                                                                \
        done = find_tops(&l, is_double, threads);                                                                      \
        for (Py_ssize_t i = 0; i < n; i++) {                                                                           \
            real own = s[i * n + i];                                                                                   \
            value += (double)(tops[i] - own) + log2_of((double)sums[i]);                                               \
            sums[i] = (real)slope / sums[i];                                                                           \
            if (symmetric) {                                                                                           \
                value += (double)(column_tops[i] - own) + log2_of((double)column_sums[i]);                             \
                column_sums[i] = (real)slope / column_sums[i];                                                         \
            }                                                                                                          \
        }                                                                                                              \
    }

/* at_once(double, threads, s, n, scale, symmetric, gradient, factor) -> value; s (n, n) becomes factor times its
   gradient */
static PyObject *py_at_once(PyObject *self, PyObject *const *values, Py_ssize_t given)
{
    (void)self;
    if (!expect(given, 8))
        return NULL;
    Arguments a = {values, 0, NULL};
    int is_double = (int)count(&a), threads = some_threads(count(&a)), done = 0;
    Logits l = {0};
    l.s = address(&a);
    Py_ssize_t n = count(&a);
    l.rows = l.columns = l.stride = n;
    l.scale = number(&a);
    int symmetric = (int)count(&a), gradient = (int)count(&a);
    double factor = number(&a);
    if (PyErr_Occurred())
        return NULL;
    void *memory = malloc((size_t)n * 4 * sizeof(double));
    if (!memory)
        return PyErr_NoMemory();
    double share = (symmetric ? 0.5 : 1.0) / (double)n, slope = share * factor, value = 0;
    Py_BEGIN_ALLOW_THREADS
    if (is_double)
        AT_ONCE(double, log2)
    else
        AT_ONCE(float, log2)
    if (done && gradient) {
        Job job;
        l.form = LOGITS;
        l.own = slope * (symmetric ? 2 : 1);
        logits_job(&job, &l, use->shares[is_double], is_double, threads);
        run(&job, n);
    }
    free(memory);
    Py_END_ALLOW_THREADS
    if (!done)
        return PyErr_NoMemory();
    return PyFloat_FromDouble(value * share * 0.69314718055994531);
}

/* choose(best) -> the instruction set in use */
static PyObject *py_choose(PyObject *self, PyObject *const *values, Py_ssize_t given)
{
    (void)self;
    if (!expect(given, 1))
        return NULL;
    Arguments a = {values, 0, NULL};
    int best = (int)count(&a);
    return PyErr_Occurred() ? NULL : PyLong_FromLong(choose(best));
}

#define METHOD(name) {#name, (PyCFunction)(void (*)(void))py_##name, METH_FASTCALL, NULL}
static PyMethodDef methods[] = {METHOD(tile),   METHOD(prepare), METHOD(finish),  METHOD(powers),
                                METHOD(tops),   METHOD(shares),  METHOD(at_once), METHOD(choose), METHOD(pairwise), {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_sweeps", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__sweeps(void)
{
    PyObject *made = PyModule_Create(&module);
    choose(SET_AVX512);
    find_threads();
    if (made)
        PyModule_AddIntConstant(made, "interface", INTERFACE);
    if (made)
        PyModule_AddIntConstant(made, "threaded", parallel_region && thread_number && team_size);
    return made;
}
