// Maxima of probability maps, as stream.peaks finds them: strict, a plateau once, a Gaussian through 5 x 5 pixels.
// Maps are (b, k, ny, nx) f4, background first. Peaks of image b lie in its `most` rows in no order; what is the
// same whatever the order: each carries the pixel it was met at, and ties are broken by it.

#define UNDECIDED 0
#define KEPT 1
#define GONE 2

// Fit ln p = a + b y + c x + d (y^2 + x^2) around (i, j): y, x and sigma in map pixels. stream.peaks._gaussian.
__device__ void gaussian(const float* background, int ny, int nx, int i, int j, double* fit) {
    const double nearness[3] = {1.0, 0.71653131057378925, 0.26359713811572677};  // a Gaussian of 1.2 pixels
    double peak = 1.0 - background[(i64)i * nx + j];
    double s1 = 0, sy = 0, sx = 0, sr = 0, syy = 0, syx = 0, syr = 0, sxx = 0, sxr = 0, srr = 0;
    double t1 = 0, ty = 0, tx = 0, tr = 0;
    for (int u = max(i - 2, 0); u < min(i + 3, ny); u++) {
        for (int v = max(j - 2, 0); v < min(j + 3, nx); v++) {
            float here = background[(i64)u * nx + v], p = 1.0f - here;
            if (!(p > 1e-3f)) continue;  // weighs nothing, and its logarithm is noise; NaN too
            int du = abs(u - i), dv = abs(v - j);
            if (du == 2 || dv == 2) {
                float inner = background[(i64)(u - (u > i) + (u < i)) * nx + (v - (v > j) + (v < j))];
                if (here <= inner) continue;  // rises again: the neighbour's
            }
            double y = u - i, x = v - j, r = y * y + x * x;
            double w = (p / peak) * (p / peak) * nearness[du] * nearness[dv];
            s1 += w;
            sy += w * y;
            sx += w * x;
            sr += w * r;
            syy += w * y * y;
            syx += w * y * x;
            syr += w * y * r;
            sxx += w * x * x;
            sxr += w * x * r;
            srr += w * r * r;
            w *= logf(p);
            t1 += w;
            ty += w * y;
            tx += w * x;
            tr += w * r;
        }
    }
    fit[0] = i;
    fit[1] = j;
    fit[2] = NOT_A_NUMBER;
    if (s1 < 1e-9) return;
    syy -= sy * sy / s1, syx -= sy * sx / s1, syr -= sy * sr / s1, ty -= sy * t1 / s1;
    sxx -= sx * sx / s1, sxr -= sx * sr / s1, tx -= sx * t1 / s1;
    srr -= sr * sr / s1, tr -= sr * t1 / s1;
    if (syy < 1e-9) return;
    sxx -= syx * syx / syy, sxr -= syx * syr / syy, tx -= syx * ty / syy;
    srr -= syr * syr / syy, tr -= syr * ty / syy;
    if (sxx < 1e-9) return;
    srr -= sxr * sxr / sxx, tr -= sxr * tx / sxx;
    if (srr < 1e-9 || !(tr / srr < -1e-6)) return;
    double d = tr / srr, c = (tx - sxr * d) / sxx, b = (ty - syr * d - syx * c) / syy;
    double y = i + fmin(fmax(-0.5 * b / d, -1.0), 1.0), x = j + fmin(fmax(-0.5 * c / d, -1.0), 1.0);
    fit[0] = fmin(fmax(y, -0.5), ny - 0.5);
    fit[1] = fmin(fmax(x, -0.5), nx - 0.5);
    fit[2] = sqrt(-0.5 / d);
}

// Appends the peak at pixel `at`, met at pixel `met`: place (most, 2), facts (most, 4) of sigma, score, kind, met.
__device__ void append(
    const float* maps, int k, int ny, int nx, int at, int met, int most, double* place, float* facts, int* count,
    int* peak_at) {
    i64 plane = (i64)ny * nx;
    int n = atomicAdd(count, 1);
    if (n >= most) return;  // cannot be: no two maxima touch
    double fit[3];
    gaussian(maps, ny, nx, at / nx, at % nx, fit);
    int best = 1;
    for (int c = 2; c < k; c++)
        if (maps[c * plane + at] > maps[best * plane + at]) best = c;
    place[2 * n] = fit[0];
    place[2 * n + 1] = fit[1];
    facts[4 * n] = (float)fit[2];
    facts[4 * n + 1] = 1.0f - maps[at];
    facts[4 * n + 2] = (float)best;
    facts[4 * n + 3] = __int_as_float(met);
    peak_at[at] = n;
}

// Strict maxima at once; pixels with an equal neighbour get themselves as label, for `join` to spread.
// peak_at (b, ny, nx): which peak lies there, or -1. label: the pixel itself, or -1. grid: x, y, b.
extern "C" __global__ void maxima(
    const float* maps, float ceiling, int k, int ny, int nx, int most, double* place, float* facts, int* counts,
    int* peak_at, int* label, int* lower, int* size, u64* sum_y, u64* sum_x, u64* nearest, int* middle) {
    int j = blockIdx.x * blockDim.x + threadIdx.x, i = blockIdx.y * blockDim.y + threadIdx.y;
    if (i >= ny || j >= nx) return;
    i64 plane = (i64)ny * nx, offset = blockIdx.z * plane;
    const float* map = maps + (i64)blockIdx.z * k * plane;
    int p = i * nx + j;
    peak_at[offset + p] = -1;
    label[offset + p] = -1;
    float b = map[p];
    if (!(b <= ceiling)) return;
    bool lowest = true, flat = false;
    for (int u = max(i - 1, 0); u < min(i + 2, ny); u++)
        for (int v = max(j - 1, 0); v < min(j + 2, nx); v++) {
            float other = map[(i64)u * nx + v];
            if (other < b) lowest = false;
            else if (other == b && (u != i || v != j)) flat = true;
        }
    if (flat) {
        label[offset + p] = p;
        lower[offset + p] = lowest ? 0 : 1;  // of its own neighbours; `survey` gathers them at the root
        size[offset + p] = 0;
        sum_y[offset + p] = sum_x[offset + p] = 0;
        nearest[offset + p] = ~0ull;
        middle[offset + p] = 0x7fffffff;
        atomicExch(counts + 3 * blockIdx.z + 2, 1);
    } else if (lowest) {
        append(map, k, ny, nx, p, p, most, place + (i64)blockIdx.z * most * 2, facts + (i64)blockIdx.z * most * 4,
               counts + 3 * blockIdx.z, peak_at + offset);
    }
}

__device__ int root_of(const volatile int* label, int p) {
    while (label[p] != p) p = label[p];
    return p;
}

// Union of two plateau pixels; the root is the first in raster order.
__device__ void unite(int* label, int a, int b) {
    while (true) {
        a = root_of(label, a);
        b = root_of(label, b);
        if (a == b) return;
        if (a > b) {
            int c = a;
            a = b;
            b = c;
        }
        int before = atomicMin(label + b, a);
        if (before == b) return;
        b = before;  // someone else hung b elsewhere meanwhile: join that too
    }
}

// The five steps of plateaus share this beginning: nothing to do without a flat pixel here.
#define FLAT_PIXEL                                                                                        \
    int j = blockIdx.x * blockDim.x + threadIdx.x, i = blockIdx.y * blockDim.y + threadIdx.y;             \
    if (i >= ny || j >= nx || !counts[3 * blockIdx.z + 2]) return;                                        \
    i64 plane = (i64)ny * nx, offset = blockIdx.z * plane;                                                \
    int p = i * nx + j;                                                                                   \
    if (label[offset + p] < 0) return;

extern "C" __global__ void join(const float* maps, int k, int ny, int nx, const int* counts, int* label) {
    FLAT_PIXEL
    const float* map = maps + (i64)blockIdx.z * k * plane;
    for (int n = 0; n < 4; n++) {  // the neighbours before it: the others come to it
        int u = n < 3 ? i - 1 : i, v = n < 3 ? j - 1 + n : j - 1;
        if (u >= 0 && v >= 0 && v < nx && map[(i64)u * nx + v] == map[p]) unite(label + offset, p, u * nx + v);
    }
}

// Sums over each plateau, at its root; lower: whether any of its pixels has a lower neighbour.
extern "C" __global__ void survey(
    int ny, int nx, const int* counts, const int* label, int* lower, int* size, u64* sum_y, u64* sum_x) {
    FLAT_PIXEL
    i64 root = offset + root_of(label + offset, p);
    if (lower[offset + p]) atomicExch(lower + root, 1);
    atomicAdd(size + root, 1);
    atomicAdd(sum_y + root, (u64)i);
    atomicAdd(sum_x + root, (u64)j);
}

// Square of the distance from the plateau's centre, times its size squared: whole numbers, so that ties are ties.
__device__ u64 off_centre(int i, int j, i64 root, const int* size, const u64* sum_y, const u64* sum_x) {
    double y = (double)size[root] * i - (double)sum_y[root], x = (double)size[root] * j - (double)sum_x[root];
    return (u64)__double_as_longlong(y * y + x * x);  // of numbers above 0, bits sort as values
}

extern "C" __global__ void find_nearest(
    int ny, int nx, const int* counts, const int* label, const int* lower, const int* size, const u64* sum_y,
    const u64* sum_x, u64* nearest) {
    FLAT_PIXEL
    i64 root = offset + root_of(label + offset, p);
    if (!lower[root]) atomicMin(nearest + root, off_centre(i, j, root, size, sum_y, sum_x));
}

extern "C" __global__ void find_middle(
    int ny, int nx, const int* counts, const int* label, const int* lower, const int* size, const u64* sum_y,
    const u64* sum_x, const u64* nearest, int* middle) {
    FLAT_PIXEL
    i64 root = offset + root_of(label + offset, p);
    if (!lower[root] && off_centre(i, j, root, size, sum_y, sum_x) == nearest[root]) atomicMin(middle + root, p);
}

extern "C" __global__ void settle(
    const float* maps, int k, int ny, int nx, int most, double* place, float* facts, int* counts, int* peak_at,
    const int* label, const int* lower, const int* middle) {
    FLAT_PIXEL
    if (label[offset + p] != p || lower[offset + p]) return;
    append(maps + (i64)blockIdx.z * k * plane, k, ny, nx, middle[offset + p], p, most,
           place + (i64)blockIdx.z * most * 2, facts + (i64)blockIdx.z * most * 4, counts + 3 * blockIdx.z,
           peak_at + offset);
}

// What becomes of peak n, as far as it can be told: gone if a better one nearer than `distance` was kept, kept if
// all those are gone. The same as taking them best first, in any order of asking.
__device__ int judged(
    int n, int count, const double* place, const float* facts, const int* peak_at, volatile int* state, int ny,
    int nx, double distance) {
    int reach = (int)ceil(distance + 2);  // a fit moves a peak by one pixel at most, and so the other
    double y = place[2 * n], x = place[2 * n + 1];
    float score = facts[4 * n + 1];
    int met = __float_as_int(facts[4 * n + 3]), found = KEPT;
    int i = (int)floor(y + 0.5), j = (int)floor(x + 0.5);
    for (int u = max(i - reach, 0); u < min(i + reach + 1, ny); u++)
        for (int v = max(j - reach, 0); v < min(j + reach + 1, nx); v++) {
            int other = peak_at[(i64)u * nx + v];
            if (other < 0 || other == n || other >= count) continue;
            float its = facts[4 * other + 1];
            if (its < score || (its == score && __float_as_int(facts[4 * other + 3]) > met)) continue;
            double dy = y - place[2 * other], dx = x - place[2 * other + 1];
            if (dy * dy + dx * dx >= distance * distance) continue;
            int known = state[other];
            if (known == KEPT) return GONE;
            if (known == UNDECIDED) found = UNDECIDED;
        }
    return found;
}

extern "C" __global__ void begin_suppression(const int* counts, int* state, int most) {
    int n = blockIdx.x * blockDim.x + threadIdx.x;
    if (n < min(counts[3 * blockIdx.z], most)) state[(i64)blockIdx.z * most + n] = UNDECIDED;
}

// One round over all peaks. grid: peaks, 1, b (any number of threads: each takes every so many).
extern "C" __global__ void suppress(
    const double* place, const float* facts, const int* peak_at, const int* counts, int* state, int ny, int nx,
    int most, double distance) {
    int count = min(counts[3 * blockIdx.z], most);
    i64 first = (i64)blockIdx.z * most;
    for (int n = blockIdx.x * blockDim.x + threadIdx.x; n < count; n += gridDim.x * blockDim.x)
        if (state[first + n] == UNDECIDED)
            state[first + n] = judged(n, count, place + 2 * first, facts + 4 * first,
                                      peak_at + (i64)blockIdx.z * ny * nx, state + first, ny, nx, distance);
}

// Round after round until every peak is decided; usually none is left by now. grid: 1, 1, b; 256 threads.
extern "C" __global__ void suppress_rest(
    const double* place, const float* facts, const int* peak_at, const int* counts, int* state, int ny, int nx,
    int most, double distance) {
    __shared__ int left;
    int count = min(counts[3 * blockIdx.z], most);
    i64 first = (i64)blockIdx.z * most;
    while (true) {
        __syncthreads();
        if (threadIdx.x == 0) left = 0;
        __syncthreads();
        for (int n = threadIdx.x; n < count; n += blockDim.x)
            if (state[first + n] == UNDECIDED) {
                int now = judged(n, count, place + 2 * first, facts + 4 * first,
                                 peak_at + (i64)blockIdx.z * ny * nx, state + first, ny, nx, distance);
                state[first + n] = now;
                if (now == UNDECIDED) atomicExch(&left, 1);
            }
        __syncthreads();
        if (!left) return;
    }
}

// What goes back: rows (b, most, 6) of y, x, sigma (map pixels), score, kind, pixel it was met at (an int's bits).
extern "C" __global__ void gather(
    const double* place, const float* facts, const int* state, int* counts, float* rows, int most, int all) {
    int n = blockIdx.x * blockDim.x + threadIdx.x;
    i64 first = (i64)blockIdx.z * most;
    if (n >= min(counts[3 * blockIdx.z], most) || !(all || state[first + n] == KEPT)) return;
    i64 to = first + atomicAdd(counts + 3 * blockIdx.z + 1, 1);
    rows[6 * to] = (float)place[2 * (first + n)];
    rows[6 * to + 1] = (float)place[2 * (first + n) + 1];
    for (int c = 0; c < 4; c++) rows[6 * to + 2 + c] = facts[4 * (first + n) + c];
}
