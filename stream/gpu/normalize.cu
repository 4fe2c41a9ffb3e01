// Resampling and local normalization; between these kernels lie the small matrix products of stream.normalize.
// Images are (b, ny, nx) f4, one per blockIdx.z; a pixel that is not finite is no measurement. To be normalized they come
// as stacks (b, channels, ny, nx) of registered images, which share their mean and deviation.

#define LEAST_KNOWN 0.5f   // as in stream.resample
#define LEAST_WEIGHT 1e-3f // these three as in stream.normalize
#define FLAT 1e-6f
#define FAINT 3e-3f

// out (b, ny_out, nx_out): taps x taps input pixels from (first_y, first_x) on, weighted; NaN where too few are known.
extern "C" __global__ void resample(
    const float* image, const int* first_y, const float* weight_y, const int* first_x, const float* weight_x,
    float* out, int ny, int nx, int ny_out, int nx_out, int taps_y, int taps_x) {
    int j = blockIdx.x * blockDim.x + threadIdx.x, i = blockIdx.y * blockDim.y + threadIdx.y;
    if (i >= ny_out || j >= nx_out) return;
    const float* source = image + (i64)blockIdx.z * ny * nx + (i64)first_y[i] * nx + first_x[j];
    float total = 0, known = 0;
    for (int u = 0; u < taps_y; u++) {
        float row = 0, row_known = 0;
        for (int v = 0; v < taps_x; v++) {
            float value = source[(i64)u * nx + v], w = weight_x[j * taps_x + v];
            if (isfinite(value)) {
                row += w * value;
                row_known += w;
            }
        }
        total += weight_y[i * taps_y + u] * row;
        known += weight_y[i * taps_y + u] * row_known;
    }
    out[((i64)blockIdx.z * ny_out + i) * nx_out + j] = known > LEAST_KNOWN ? total / known : NOT_A_NUMBER;
}

// sums (b, 2, bands, nx): of the finite pixels in each band's rows, and how many they are. grid: x, bands, b.
extern "C" __global__ void band_sums(
    const float* image, const int* edges, float* sums, int channels, int bands, int ny, int nx) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, band = blockIdx.y;
    if (x >= nx) return;
    float total = 0, count = 0;
    for (int c = 0; c < channels; c++)
        for (int y = edges[band]; y < edges[band + 1]; y++) {
            float value = image[(((i64)blockIdx.z * channels + c) * ny + y) * nx + x];
            if (isfinite(value)) {
                total += value;
                count += 1;
            }
        }
    i64 at = ((i64)blockIdx.z * 2 * bands + band) * nx + x;
    sums[at] = total;
    sums[at + (i64)bands * nx] = count;
}

// totals (rows,) of (rows, nx). grid: rows; 256 threads.
extern "C" __global__ void row_totals(const float* values, double* totals, int nx) {
    __shared__ double part[256];
    double total = 0;
    for (int x = threadIdx.x; x < nx; x += 256) total += values[(i64)blockIdx.x * nx + x];
    part[threadIdx.x] = total;
    for (int step = 128; step > 0; step >>= 1) {
        __syncthreads();
        if (threadIdx.x < step) part[threadIdx.x] += part[threadIdx.x + step];
    }
    if (threadIdx.x == 0) totals[blockIdx.x] = part[0];
}

// Of each image from its bands' totals (b, 2, bands): mean of the good pixels, and their number. grid: b; 256 threads.
extern "C" __global__ void image_level(const double* totals, float* level, double* pixels, int bands) {
    __shared__ double part[2][256];
    for (int which = 0; which < 2; which++) {
        double total = 0;
        for (int i = threadIdx.x; i < bands; i += 256) total += totals[((i64)blockIdx.x * 2 + which) * bands + i];
        part[which][threadIdx.x] = total;
    }
    for (int step = 128; step > 0; step >>= 1) {
        __syncthreads();
        if (threadIdx.x < step)
            for (int which = 0; which < 2; which++) part[which][threadIdx.x] += part[which][threadIdx.x + step];
    }
    if (threadIdx.x == 0) {
        double n = part[1][0] > 1 ? part[1][0] : 1;
        level[blockIdx.x] = (float)(part[0][0] / n);
        pixels[blockIdx.x] = n;
    }
}

// Takes the level out of the sums, so that the products round what varies, not what is large. grid: x, bands, b.
extern "C" __global__ void take_level(float* sums, const float* level, int bands, int nx) {
    int x = blockIdx.x * blockDim.x + threadIdx.x;
    if (x >= nx) return;
    i64 at = ((i64)blockIdx.z * 2 * bands + blockIdx.y) * nx + x;
    sums[at] -= level[blockIdx.z] * sums[at + (i64)bands * nx];
}

// What lies on the line between two edges: blurred sums are smooth enough for it, their ratios and roots are not.
__device__ float between(const float* edge, i64 at, int nx, float t) {
    return edge[at] + t * (edge[at + nx] - edge[at]);
}

// Pixels less their local mean, into rows of `pitch` of images of `room` pixels; squares (b, bands, nx) of the rest.
// blurred (b, 2, bands + 1, nx): sums and counts at the bands' edges. grid: x, bands, b.
extern "C" __global__ void subtract(
    const float* image, const int* edges, const float* blurred, const float* level, float* out, float* squares,
    int channels, int bands, int ny, int nx, int pitch, i64 room) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, band = blockIdx.y;
    if (x >= nx) return;
    i64 plane = (i64)(bands + 1) * nx, at = blockIdx.z * 2 * plane + (i64)band * nx + x;
    int first = edges[band], last = edges[band + 1];
    float total = 0;
    for (int y = first; y < last; y++) {
        float t = (y + 0.5f - first) / (last - first);
        float weight = between(blurred, at + plane, nx, t);
        bool known = weight > LEAST_WEIGHT * channels;
        float mean = between(blurred, at, nx, t) / (known ? weight : 1.0f) + level[blockIdx.z];
        for (int c = 0; c < channels; c++) {
            i64 one = (i64)blockIdx.z * channels + c;
            float value = image[(one * ny + y) * nx + x];
            value = isfinite(value) ? value - mean : 0.0f;
            out[one * room + (i64)y * pitch + x] = value;
            total += value * value;
        }
    }
    squares[((i64)blockIdx.z * bands + band) * nx + x] = total;
}

// Deviation of each whole image from the totals (b, bands) of its squares. grid: b; 256 threads.
extern "C" __global__ void image_deviation(const double* totals, const double* pixels, float* overall, int bands) {
    __shared__ double part[256];
    double total = 0;
    for (int i = threadIdx.x; i < bands; i += 256) total += totals[(i64)blockIdx.x * bands + i];
    part[threadIdx.x] = total;
    for (int step = 128; step > 0; step >>= 1) {
        __syncthreads();
        if (threadIdx.x < step) part[threadIdx.x] += part[threadIdx.x + step];
    }
    if (threadIdx.x == 0) overall[blockIdx.x] = (float)sqrt(part[0] / pixels[blockIdx.x]);
}

// Divides what `subtract` wrote by the local deviation; 0 where nothing is known, or what varies is rounding.
// variance (b, bands + 1, nx). grid: x, bands, b.
extern "C" __global__ void scale(
    float* out, const int* edges, const float* blurred, const float* variance, const float* level,
    const float* overall, int channels, int bands, int nx, int pitch, i64 room) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, band = blockIdx.y;
    if (x >= nx) return;
    i64 plane = (i64)(bands + 1) * nx, here = (i64)band * nx + x;
    i64 at = blockIdx.z * 2 * plane + here, at_variance = blockIdx.z * plane + here;
    int first = edges[band], last = edges[band + 1];
    for (int y = first; y < last; y++) {
        float t = (y + 0.5f - first) / (last - first);
        float weight = between(blurred, at + plane, nx, t), factor = 0;
        if (weight > LEAST_WEIGHT * channels) {
            float mean = between(blurred, at, nx, t) / weight + level[blockIdx.z];
            float deviation = sqrtf(fmaxf(between(variance, at_variance, nx, t) / weight, 0.0f));
            if (deviation > fmaxf(FLAT * fabsf(mean), FAINT * overall[blockIdx.z])) factor = 1.0f / deviation;
        }
        for (int c = 0; c < channels; c++)
            out[((i64)blockIdx.z * channels + c) * room + (i64)y * pitch + x] *= factor;
    }
}
