// How a clip's tensors lie in memory, and the moments of their channels.
//
// A clip's tensor is C planes; a plane is F rows of data, a row above and one below, each row T floats and at least one
// more. So a neighbour in frequency or time lies at a constant distance, a 3-tap convolution is a matrix product whose
// 3 C input rows overlap in memory, and no loop has an edge. Padding holds junk, except where a comment says "clean":
// zero. Loops over vectors run past the end of a row, which the next row then overwrites, or past the end of a tile,
// for which planes end in slack.

#pragma once

#include "products.hpp"

#include <algorithm>
#include <cmath>

namespace {

constexpr float NORM_EPSILON = 1e-5f;  // of GroupNorm

struct Shape {
    long C, F, T, pitch, plane;
    Shape(long C, long F, long T) : C(C), F(F), T(T) {
        const long whole = (T / 16 + 1) * 16;  // rows that start on a cache line are faster, unless they grow much
        pitch = (whole - T) * 16 <= whole ? whole : T + 1;
        plane = padded(F);
    }
    long padded(long rows) const { return ((rows + 2) * pitch + SLACK + 15) / 16 * 16; }
    long size() const { return C * plane + (2 * C + 15) / 16 * 16; }  // the planes, then means, then 1 / deviations
    long tile(long floats, long planes) const { return std::clamp(floats / (planes * pitch), 1L, F); }  // in rows
    long row(long i) const { return i / F * plane + (i % F + 1) * pitch; }  // of all planes' rows
    template <class Use>
    void each(long begin, long end, Use use) const {  // use(offset in a plane, how many lanes are data)
        for (long r = begin; r < end; ++r)
            for (long t = 0; t < T; t += LANES) use((r + 1) * pitch + t, std::min(LANES, T - t));
    }
};

struct Scratch {  // passed by value: what a layer takes is free again when it returns; never cleared
    float* next;
    float* take(long floats) { return std::exchange(next, next + (floats + 15) / 16 * 16); }
};

Rows planes(const float* x, long count, long plane, long taps = 1, long distance = 0) {  // earlier neighbours first
    Rows rows;
    for (long d = 0; d < taps; ++d)
        for (long c = 0; c < count; ++c) rows.push_back(x + c * plane + (d - taps / 2) * distance);
    return rows;
}

// Mean and variance of each channel, stored behind the planes of x. Tile by tile, each about a first guess of its own
// mean, joined by Chan's rule: nothing large cancels.
struct Moments {
    const Shape& s;
    double count = 0;
    std::vector<double> mean, square;
    explicit Moments(const Shape& s) : s(s), mean(s.C), square(s.C) {}

    void add(const float* x, long begin, long end) {
        const double n = double(end - begin) * s.T;
        for (long c = 0; c < s.C; ++c, x += s.plane) {
            V total{}, rest{}, spread{};
            s.each(begin, end, [&](long p, long lanes) { total += first(at(x + p), lanes); });
            const float guess = sum(total) / n;
            s.each(begin, end, [&](long p, long lanes) {
                const V d = first(at(x + p) - guess, lanes);
                rest += d;
                spread += d * d;
            });
            const double offset = sum(rest) / n, step = guess + offset - mean[c];
            mean[c] += step * n / (count + n);
            square[c] += sum(spread) - offset * offset * n + step * step * count * n / (count + n);
        }
        count += n;
    }
    void store(float* x) const {
        float *means = x + s.C * s.plane, *inverses = means + s.C;
        for (long c = 0; c < s.C; ++c) {
            means[c] = mean[c];
            inverses[c] = 1 / std::sqrt(square[c] / count + NORM_EPSILON);
        }
    }
};

}  // namespace
