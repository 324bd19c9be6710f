// The RMS norm of every token, for CPUs, alone or after an addition.
//
// Tokens are rows of contiguous channels. The work is cut by the sizes alone and sums are taken in a fixed order: no
// result depends on the number of threads. See tokens.py for the interface.

#include "tensors.h"

using namespace simd;

struct NormArgs {
    int64_t rows, dim, slices, threads, bf16;
    double eps;
    const float *x, *weight;  // backward: x is the sum
    const void* added;        // or null; of bfloat16 if so said; backward: float, the gradient of the sum
    float* total;             // x + added, written if something is added
    float *out, *rstd;        // forward: written; backward: `out` is the gradient that arrives, `rstd` is read
    float* partial;           // (slices, C), backward: each slice of the rows sums dweight for itself
    float *dx, *dweight;
};

namespace {

template <typename T>
void norm_rows(const NormArgs& s) {
#pragma omp parallel for num_threads(s.threads) schedule(static)
    for (int64_t row = 0; row < s.rows; row++) {
        const float* x = s.x + row * s.dim;
        if (s.added) {
            const T* added = static_cast<const T*>(s.added) + row * s.dim;
            float* total = s.total + row * s.dim;
            for_each_vector(s.dim, [&](int64_t c, int lanes) {
                store(total + c, load(x + c, lanes) + load(added + c, lanes), lanes);
            });
            x = total;
        }
        float *out = s.out + row * s.dim, rstd = 1.0f / std::sqrt(sum_of_squares(x, s.dim) / s.dim + float(s.eps));
        for_each_vector(s.dim, [&](int64_t c, int lanes) {
            store(out + c, load(x + c, lanes) * rstd * load(s.weight + c, lanes), lanes);
        });
        s.rstd[row] = rstd;
    }
}

// With n = x / rms: dweight += dout n,  dx = (dout weight - n mean(dout weight n)) / rms + dtotal
void norm_backward_slice(const NormArgs& s, int64_t begin, int64_t end, float* dweight) {
    std::memset(dweight, 0, s.dim * sizeof(float));
    for (int64_t row = begin; row < end; row++) {
        const float *x = s.x + row * s.dim, *dout = s.out + row * s.dim, rstd = s.rstd[row];
        float* dx = s.dx + row * s.dim;
        vec along{};
        for_each_vector(s.dim, [&](int64_t c, int lanes) {
            const vec dn = load(dout + c, lanes) * (load(x + c, lanes) * rstd);
            store(dweight + c, load(dweight + c, lanes) + dn, lanes);
            along += dn * load(s.weight + c, lanes);
        });
        const float mean = lane_sum(along) / float(s.dim);
        const float* dtotal = s.added ? static_cast<const float*>(s.added) + row * s.dim : nullptr;
        for_each_vector(s.dim, [&](int64_t c, int lanes) {
            const vec n = load(x + c, lanes) * rstd, rest = dtotal ? load(dtotal + c, lanes) : vec{};
            store(dx + c, (load(dout + c, lanes) * load(s.weight + c, lanes) - n * mean) * rstd + rest, lanes);
        });
    }
}

}  // namespace

extern "C" {

// total = x + added, out = total / rms(total) * weight, row by row.
int norm_forward(const NormArgs* args) {
    args->bf16 ? norm_rows<bfloat16>(*args) : norm_rows<float>(*args);
    return 0;
}

int norm_backward(const NormArgs* args) {
    const NormArgs& s = *args;
#pragma omp parallel for num_threads(s.threads) schedule(static)
    for (int64_t i = 0; i < s.slices; i++)
        norm_backward_slice(s, i * s.rows / s.slices, (i + 1) * s.rows / s.slices, s.partial + i * s.dim);
    for (int64_t c = 0; c < s.dim; c++) {
        float sum = 0.0f;
        for (int64_t i = 0; i < s.slices; i++) sum += s.partial[i * s.dim + c];
        s.dweight[c] = sum;
    }
    return 0;
}
}
