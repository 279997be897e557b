// The encoder, forward and backward, in float32: clip by clip and tile by tile, so that what a branch computes stays in
// cache. Called through fused.py.

#include "clip.hpp"
#include "products.hpp"

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#ifdef __linux__
#include <sys/mman.h>
#endif

namespace {

constexpr long FORWARD_TILE = 1 << 16, BACKWARD_TILE = 1 << 17;  // floats; fits a second-level cache of 1 MiB

// ---- the layers -----------------------------------------------------------------------------------------------------

enum Kind { FREQUENCY, TIME, POINT, SHRINK };

struct Layer {
    Kind kind;
    Shape in, out;
    long saved, weight, keep;  // offsets: its input among a clip's saved tensors, its parameters, its dropout factors
    long middle() const { return kind == POINT ? 2 * in.C : kind == SHRINK ? out.C : in.C; }
    long taps() const { return kind == POINT ? 1 : 3; }
    long distance() const { return kind == FREQUENCY ? in.pitch : 1; }
    long weights() const {
        return in.C * middle() * taps() + (kind == SHRINK ? 0 : 3 * in.C + middle() + middle() * in.C);
    }
};

struct Plan {
    std::vector<Layer> layers;
    long saved = 0, weight, keep = 0, largest = 0, middle = 0;

    Plan(long channels, long depth, long F, long T) : weight(channels) {
        Shape s(channels, F, T);
        const auto push = [&](Kind kind, Shape out) {
            layers.push_back({kind, s, out, saved, weight, keep});
            saved += s.size();
            weight += layers.back().weights();
            keep += kind == SHRINK ? 0 : s.C;
            largest = std::max({largest, s.size(), out.size()});
            middle = std::max(middle, layers.back().middle() * s.plane);
            s = out;
        };
        for (long i = 0; i < depth; ++i) {
            for (Kind kind : {FREQUENCY, TIME, POINT}) push(kind, s);
            push(SHRINK, Shape(s.C * 3 / 2, F, (s.T + 1) / 2));
            for (Kind kind : {FREQUENCY, TIME, POINT}) push(kind, s);
        }
    }
    const Shape& input() const { return layers.front().in; }
    const Shape& output() const { return layers.back().out; }
    long scratch() const { return 5 * largest + 3 * middle; }  // what a thread takes at most
};

template <class Float>
struct Parameters {  // of a branch, in the order of torch's parameters()
    Float *scale, *gain, *shift, *mix, *bias, *merge;
    Parameters(const Layer& l, Float* w)
        : scale(w), gain(scale + l.in.C), shift(gain + l.in.C), mix(shift + l.in.C),
          bias(mix + l.in.C * l.middle() * l.taps()), merge(bias + l.middle()) {}
};

// ---- a branch -------------------------------------------------------------------------------------------------------

// Rows begin - 1 .. end of the normalised input, clean, in a tile that starts with row begin - 1.
void normalise(const Layer& layer, const Parameters<const float>& w, const float* x, long begin, long end, float* tile,
               long plane) {
    const Shape& s = layer.in;
    const float *mean = x + s.C * s.plane, *inverse = mean + s.C;
    const long halo = layer.kind == FREQUENCY, low = std::max(0L, begin - halo), high = std::min(s.F, end + halo);
    for (long c = 0; c < s.C; ++c) {
        const float a = w.gain[c] * inverse[c], b = w.shift[c] - mean[c] * a;
        float* to = tile + c * plane;
        const float* from = x + c * s.plane + begin * s.pitch;
        for (long r = begin - 1; r <= end; ++r, to += s.pitch, from += s.pitch) {
            const long data = r >= low && r < high ? s.T : 0;
            for (long t = 0; t < data; t += LANES) at(to + t) = at(from + t) * a + b;
            std::fill(to + data, to + s.pitch, 0.f);
        }
    }
}

Matrix mixing(const Layer& l, const float* mix) {
    const long C = l.in.C, taps = l.taps();
    return {l.middle(), C, taps, [&](long m, long c, long d) { return mix[(m * C + c) * taps + d]; }};
}

void branch_forward(const Layer& layer, const float* weights, const float* keep, const float* x, float* y,
                    Moments& moments, Scratch scratch) {
    const Shape& s = layer.in;
    const long C = s.C, M = layer.middle(), rows = s.tile(FORWARD_TILE, C + M), plane = s.padded(rows);
    const Parameters<const float> w(layer, weights);
    const Matrix mix = mixing(layer, w.mix);
    const Matrix merge(C, M, 1, [&](long c, long m, long) { return w.merge[c * M + m] * w.scale[c] * keep[c]; });
    float *tile = scratch.take(C * plane), *middle = scratch.take(M * plane);
    const Rows source = planes(tile + s.pitch, C, plane, layer.taps(), layer.distance());
    const Rows inner = planes(middle, M, plane);

    for (long begin = 0, end; begin < s.F; begin = end) {
        end = std::min(begin + rows, s.F);
        const long n = (end - begin) * s.pitch, start = (begin + 1) * s.pitch;
        normalise(layer, w, x, begin, end, tile, plane);
        mix.times(source, n, [&](long m, long p, V v) {
            v += w.bias[m];
            at(middle + m * plane + p) = v * sigmoid(v);
        });
        merge.times(inner, n, [&](long c, long p, V v) {
            const long q = c * s.plane + start + p;
            at(y + q) = at(x + q) + v;
        });
        moments.add(y, begin, end);
    }
}

// `g`, clean: on entry the gradient of the output, on return that of the input. All between is computed again.
void branch_backward(const Layer& layer, const float* weights, const float* keep, const float* x, float* g,
                     float* gradients, Scratch scratch) {
    const Shape& s = layer.in;
    const long C = s.C, M = layer.middle(), taps = layer.taps(), K = taps * C;
    const long rows = s.tile(BACKWARD_TILE, C + 3 * M), plane = s.padded(rows);
    const long lag = layer.kind == FREQUENCY;  // the last row of a tile waits for its neighbour
    const Parameters<const float> w(layer, weights);
    const Parameters<float> dw(layer, gradients);
    const Matrix mix = mixing(layer, w.mix);
    const Matrix unmerge(M, C, 1, [&](long m, long c, long) { return w.merge[c * M + m] * w.scale[c] * keep[c]; });
    const Matrix unmix(C, M, taps, [&](long c, long m, long d) { return w.mix[(m * C + c) * taps + taps - 1 - d]; });
    Correlation dmerge(C, M), dmix(M, K + 1);
    float *tile = scratch.take(C * plane), *middle = scratch.take(M * plane), *gate = scratch.take(M * plane);
    float *ones = scratch.take(plane), *dmiddle = scratch.take(M * s.plane), *dnorm = scratch.take(C * s.plane);
    const Rows source = planes(tile + s.pitch, C, plane, taps, layer.distance());
    const Rows inner = planes(middle, M, plane);
    Rows source_and_one;  // in the order of the weight, and for the bias
    for (long k = 0; k < K; ++k) source_and_one.push_back(source[k % taps * C + k / taps]);
    source_and_one.push_back(ones);
    std::fill_n(ones, plane, 1.f);
    const auto clean_row = [&](long r) {
        for (long m = 0; m < M; ++m) std::fill_n(dmiddle + m * s.plane + (r + 1) * s.pitch, s.pitch, 0.f);
    };
    clean_row(-1);
    const float *mean = x + C * s.plane, *inverse = mean + C;

    for (long begin = 0, end, done = 0; begin < s.F; begin = end) {
        end = std::min(begin + rows, s.F);
        const long n = (end - begin) * s.pitch, start = (begin + 1) * s.pitch;
        normalise(layer, w, x, begin, end, tile, plane);
        mix.times(source, n, [&](long m, long p, V v) {
            v += w.bias[m];
            const V q = sigmoid(v);
            at(middle + m * plane + p) = v * q;
            at(gate + m * plane + p) = q;
        });
        const Rows outer = planes(g + start, C, s.plane);
        dmerge.add(outer, inner, n);
        unmerge.times(outer, n, [&](long m, long p, V v) {
            const V a = at(middle + m * plane + p), q = at(gate + m * plane + p);
            at(dmiddle + m * s.plane + start + p) = v * (q + a * (1.f - q));
        });
        dmix.add(planes(dmiddle + start, M, s.plane), source_and_one, n);

        const long ready = end == s.F ? end : end - lag, from = (done + 1) * s.pitch;
        if (end == s.F) clean_row(end);
        unmix.times(planes(dmiddle + from, M, s.plane, taps, layer.distance()), (ready - done) * s.pitch,
                    [&](long c, long p, V v) { at(dnorm + c * s.plane + from + p) = v; });
        for (long c = 0; c < C; ++c) {
            V total{}, product{};
            s.each(done, ready, [&](long p, long lanes) {
                const V d = first(at(dnorm + c * s.plane + p), lanes);
                total += d;
                product += d * first(at(x + c * s.plane + p) - mean[c], lanes);
            });
            dw.shift[c] += sum(total);
            dw.gain[c] += sum(product) * inverse[c];
        }
        done = ready;
    }
    for (long c = 0; c < C; ++c) {
        for (long m = 0; m < M; ++m) {
            dw.scale[c] += dmerge(c, m) * w.merge[c * M + m] * keep[c];
            dw.merge[c * M + m] = dmerge(c, m) * w.scale[c] * keep[c];
        }
        const float a = w.gain[c] * inverse[c], share = a / (s.F * s.T);
        const float level = share * dw.shift[c], slope = share * dw.gain[c] * inverse[c];
        s.each(0, s.F, [&](long p, long lanes) {
            p += c * s.plane;
            at(g + p) += first(a * at(dnorm + p) - level - slope * (at(x + p) - mean[c]), lanes);
        });
    }
    for (long m = 0; m < M; ++m) {
        for (long k = 0; k < K; ++k) dw.mix[m * K + k] = dmix(m, k);
        dw.bias[m] = dmix(m, K);
    }
}

// ---- the strided convolution ----------------------------------------------------------------------------------------

// Odd frames, one step late, even frames, and odd frames of rows begin .. end, clean, at the pitch of the output.
Rows split(const Layer& layer, const float* x, long begin, long end, float* tile, long plane) {
    const Shape &s = layer.in, &o = layer.out;
    for (long c = 0; c < s.C; ++c) {
        float *even = tile + c * plane + o.pitch, *odd = even + s.C * plane;
        odd[-1] = 0;
        for (long r = begin; r < end; ++r, even += o.pitch, odd += o.pitch) {
            const float* from = x + c * s.plane + (r + 1) * s.pitch;
            for (long t = 0; t < o.T; ++t) even[t] = from[2 * t], odd[t] = from[2 * t + 1];
            std::fill(even + o.T, even + o.pitch, 0.f);
            std::fill(odd + s.T / 2, odd + o.pitch, 0.f);
        }
    }
    Rows rows = planes(tile + s.C * plane + o.pitch - 1, s.C, plane);
    for (const float* row : planes(tile + o.pitch, 2 * s.C, plane)) rows.push_back(row);
    return rows;
}

void shrink_forward(const Layer& layer, const float* w, const float* x, float* y, Moments& moments, Scratch scratch) {
    const Shape& o = layer.out;
    const long C = layer.in.C, rows = o.tile(FORWARD_TILE, 2 * C), plane = o.padded(rows);
    const Matrix matrix = mixing(layer, w);
    float* tile = scratch.take(2 * C * plane);
    for (long begin = 0, end; begin < o.F; begin = end) {
        end = std::min(begin + rows, o.F);
        float* to = y + (begin + 1) * o.pitch;
        matrix.times(split(layer, x, begin, end, tile, plane), (end - begin) * o.pitch,
                     [&](long m, long p, V v) { at(to + m * o.plane + p) = v; });
        moments.add(y, begin, end);
    }
}

// `g`, the gradient of the output, and `dx`, of the input, are clean.
void shrink_backward(const Layer& layer, const float* w, const float* x, const float* g, float* dx, float* gradients,
                     Scratch scratch) {
    const Shape &s = layer.in, &o = layer.out;
    const long C = s.C, M = o.C, rows = o.tile(BACKWARD_TILE, 2 * C), plane = o.padded(rows);
    const Matrix to_even(C, M, 1, [&](long c, long m, long) { return w[(m * C + c) * 3 + 1]; });
    const Matrix to_odd(C, M, 2, [&](long c, long m, long d) { return w[(m * C + c) * 3 + 2 - 2 * d]; });
    Correlation dw(M, 3 * C);
    float* tile = scratch.take(2 * C * plane);
    for (long begin = 0, end; begin < o.F; begin = end) {
        end = std::min(begin + rows, o.F);
        const long n = (end - begin) * o.pitch;
        const Rows now = planes(g + (begin + 1) * o.pitch, M, o.plane);
        Rows now_and_next = now;
        for (const float* row : now) now_and_next.push_back(row + 1);
        dw.add(now, split(layer, x, begin, end, tile, plane), n);
        to_even.times(now, n, [&](long c, long p, V v) { at(tile + c * plane + p) = v; });
        to_odd.times(now_and_next, n, [&](long c, long p, V v) { at(tile + (C + c) * plane + p) = v; });
        for (long c = 0; c < C; ++c)
            for (long r = begin; r < end; ++r) {
                const float *even = tile + c * plane + (r - begin) * o.pitch, *odd = even + C * plane;
                float* row = dx + c * s.plane + (r + 1) * s.pitch;
                for (long t = 0; t < s.T / 2; ++t) row[2 * t] = even[t], row[2 * t + 1] = odd[t];
                if (s.T % 2) row[s.T - 1] = even[o.T - 1];
                std::fill(row + s.T, row + s.pitch, 0.f);
            }
    }
    for (long m = 0; m < M; ++m)
        for (long k = 0; k < 3 * C; ++k) gradients[(m * C + k % C) * 3 + k / C] = dw(m, k);
}

// Fresh memory costs a page fault every 4 KiB, a third of the forward pass; with large pages next to nothing.
void use_large_pages([[maybe_unused]] float* memory, [[maybe_unused]] long floats) {
#ifdef __linux__
    const std::uintptr_t page = 4096, begin = (reinterpret_cast<std::uintptr_t>(memory) + page - 1) / page * page;
    const std::uintptr_t end = reinterpret_cast<std::uintptr_t>(memory + floats) / page * page;
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

// work(clip, scratch) for every clip; each thread takes the next one until none is left
template <class Work>
void parallel(const Plan& plan, long clips, long threads, Work work) {
    struct alignas(64) Line { float f[16]; };
    std::atomic<long> next{0};
    const auto loop = [&] {
        const std::unique_ptr<Line[]> memory(new Line[plan.scratch() / 16]);
        for (long clip; (clip = next++) < clips;) work(clip, Scratch{memory[0].f});
    };
    std::vector<std::thread> others;
    for (long i = 1; i < std::min(threads, clips); ++i) others.emplace_back(loop);
    loop();
    for (auto& thread : others) thread.join();
}

}  // namespace

extern "C" {

long floats_to_save(long channels, long depth, long F, long T) { return Plan(channels, depth, F, T).saved; }

// `saved`: null, or clips x floats_to_save() for encoder_backward; `keep`: clips x channels of all branches
void encoder_forward(long clips, long channels, long depth, long F, long T, long threads, const float* feature,
                     const float* weights, const float* keep, float* out, float* saved) {
    const Plan plan(channels, depth, F, T);
    const Shape &first = plan.input(), &last = plan.output();
    if (saved) use_large_pages(saved, clips * plan.saved);
    parallel(plan, clips, threads, [&](long clip, Scratch scratch) {
        float *one = scratch.take(plan.largest), *other = scratch.take(plan.largest);
        float* x = saved ? saved + clip * plan.saved : one;
        Moments moments(first);
        for (long f = 0; f < F; ++f) {  // in single precision, a sum over all rows would err by 1e-5
            for (long c = 0; c < channels; ++c)
                for (long t = 0; t < T; ++t)
                    x[c * first.plane + (f + 1) * first.pitch + t] = weights[c] * feature[(clip * F + f) * T + t];
            moments.add(x, f, f + 1);
        }
        moments.store(x);
        for (const Layer& layer : plan.layers) {
            const bool keeps = saved && &layer != &plan.layers.back();
            float* y = keeps ? x + layer.in.size() : x == one ? other : one;
            Moments moments(layer.out);
            if (layer.kind == SHRINK)
                shrink_forward(layer, weights + layer.weight, x, y, moments, scratch);
            else
                branch_forward(layer, weights + layer.weight, keep + clip * plan.keep + layer.keep, x, y, moments,
                               scratch);
            moments.store(y);
            x = y;
        }
        float* to = out + clip * last.C * F * last.T;
        for (long row = 0; row < last.C * F; ++row, to += last.T) std::copy_n(x + last.row(row), last.T, to);
    });
}

// `gradients`: clips x parameters, zero on entry
void encoder_backward(long clips, long channels, long depth, long F, long T, long threads, const float* feature,
                      const float* weights, const float* keep, const float* saved, const float* dout, float* dfeature,
                      float* gradients) {
    const Plan plan(channels, depth, F, T);
    const Shape &first = plan.input(), &last = plan.output();
    parallel(plan, clips, threads, [&](long clip, Scratch scratch) {
        float *g = scratch.take(plan.largest), *other = scratch.take(plan.largest);
        float* dw = gradients + clip * plan.weight;
        std::fill_n(g, last.size(), 0.f);
        const float* from = dout + clip * last.C * F * last.T;
        for (long row = 0; row < last.C * F; ++row, from += last.T) std::copy_n(from, last.T, g + last.row(row));
        for (auto layer = plan.layers.rbegin(); layer != plan.layers.rend(); ++layer) {
            const float *x = saved + clip * plan.saved + layer->saved, *w = weights + layer->weight;
            if (layer->kind == SHRINK) {
                shrink_backward(*layer, w, x, g, other, dw + layer->weight, scratch);
                std::swap(g, other);
            } else {
                branch_backward(*layer, w, keep + clip * plan.keep + layer->keep, x, g, dw + layer->weight,
                                scratch);
            }
        }
        for (long f = 0; f < F; ++f)
            for (long t = 0; t < T; ++t) {
                const long p = (clip * F + f) * T + t;
                dfeature[p] = 0;
                for (long c = 0; c < channels; ++c) {
                    const float v = g[c * first.plane + (f + 1) * first.pitch + t];
                    dw[c] += v * feature[p];
                    dfeature[p] += v * weights[c];
                }
            }
    });
}

}  // extern "C"
