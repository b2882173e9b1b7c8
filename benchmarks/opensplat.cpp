// Python's door to OpenSplat's CPU rasteriser (github.com/pierotofy/OpenSplat, AGPL-3.0), for `splats.py --opensplat`.
// It is compiled beside that code on the machine that compares, and is no part of the package.
//
//   python - CHECKOUT OUTPUT <<'END'
//   import sys; from torch.utils.cpp_extension import load
//   part = sys.argv[1] + "/rasterizer/gsplat-cpu"
//   load("opensplat", ["benchmarks/opensplat.cpp", part + "/gsplat_cpu.cpp"], extra_include_paths=[part],
//        extra_cflags=["-O3", "-march=native"], build_directory=sys.argv[2])
//   END
#include <torch/extension.h>

#include "bindings.h"

using torch::Tensor;

// Which pixel met which Gaussians: one list per pixel, made by the forward pass and handed to the backward pass.
struct Pixels {
    std::vector<int32_t> *lists;
    explicit Pixels(std::vector<int32_t> *made) : lists(made) {}
    ~Pixels() { delete[] lists; }
    Pixels(const Pixels &) = delete;
};

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
    py::class_<Pixels, std::shared_ptr<Pixels>>(m, "Pixels");
    m.def("project", [](Tensor means, Tensor scales, Tensor quats, Tensor view, Tensor projection,
                        std::array<float, 4> lens, unsigned height, unsigned width, float near) {
        return project_gaussians_forward_tensor_cpu(means.size(0), means, scales, 1.0f, quats, view, projection,
                                                    lens[0], lens[1], lens[2], lens[3], height, width, near);
    });
    m.def("rasterize", [](int width, int height, Tensor centers, Tensor conics, Tensor colors, Tensor opacities,
                          Tensor background, Tensor covariances, Tensor depths) {
        auto [image, through, lists] = rasterize_forward_tensor_cpu(width, height, centers, conics, colors, opacities,
                                                                    background, covariances, depths);
        return std::make_tuple(image, through, std::make_shared<Pixels>(lists));
    });
    m.def("rasterize_backward", [](int width, int height, Tensor centers, Tensor conics, Tensor colors,
                                   Tensor opacities, Tensor background, Tensor covariances, Tensor depths,
                                   Tensor through, std::shared_ptr<Pixels> pixels, Tensor color_gradient,
                                   Tensor alpha_gradient) {
        return rasterize_backward_tensor_cpu(height, width, centers, conics, colors, opacities, background,
                                             covariances, depths, through, pixels->lists, color_gradient,
                                             alpha_gradient);
    });
}
