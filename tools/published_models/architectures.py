"""The models of MLPerf's and TensorFlow's tables, built layer by layer from their papers.

MobileNet v1 (arXiv:1704.04861), v2 (1801.04381), v3 (1905.02244), EfficientNet-Lite
(tensorflow/tpu, models/official/efficientnet/lite), ResNet v1.5 (MLPerf Inference), VGG
(1409.1556), and the four of MLPerf Tiny (2106.07597).
"""

from __future__ import annotations

import math

from edgekit_benchmarks.layers import Layer, LayerKind

V3_LARGE = (  # kernel, expansion, output channels, squeeze-and-excite, hard swish, stride
    (3, 1.0, 16, False, False, 1), (3, 4.0, 24, False, False, 2), (3, 3.0, 24, False, False, 1),
    (5, 3.0, 40, True, False, 2), (5, 3.0, 40, True, False, 1), (5, 3.0, 40, True, False, 1),
    (3, 6.0, 80, False, True, 2), (3, 2.5, 80, False, True, 1), (3, 2.3, 80, False, True, 1),
    (3, 2.3, 80, False, True, 1), (3, 6.0, 112, True, True, 1), (3, 6.0, 112, True, True, 1),
    (5, 6.0, 160, True, True, 2), (5, 6.0, 160, True, True, 1), (5, 6.0, 160, True, True, 1),
)  # fmt: skip
V3_SMALL = (
    (3, 1.0, 16, True, False, 2), (3, 72 / 16, 24, False, False, 2),
    (3, 88 / 24, 24, False, False, 1), (5, 4.0, 40, True, True, 2), (5, 6.0, 40, True, True, 1),
    (5, 6.0, 40, True, True, 1), (5, 3.0, 48, True, True, 1), (5, 3.0, 48, True, True, 1),
    (5, 6.0, 96, True, True, 2), (5, 6.0, 96, True, True, 1), (5, 6.0, 96, True, True, 1),
)  # fmt: skip
V2_BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
             (6, 160, 3, 2), (6, 320, 1, 1))  # fmt: skip
LITE_BLOCKS = ((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 3, 6, 80, 2),
               (5, 3, 6, 112, 1), (5, 4, 6, 192, 2), (3, 1, 6, 320, 1))  # fmt: skip
LITE_SCALES = ((1.0, 1.0, 224), (1.0, 1.1, 240), (1.1, 1.2, 260), (1.2, 1.4, 280), (1.4, 1.8, 300))


class Network:
    """Layers one after the other, on planes of `rows` x `columns` x `channels`."""

    def __init__(self, rows: int, columns: int, channels: int) -> None:
        self.rows, self.columns, self.channels = rows, columns, channels
        self.layers: list[Layer] = []

    @property
    def size(self) -> int:
        """How many numbers flow here."""
        return self.rows * self.columns * self.channels

    def conv(
        self, channels: int, kernel: tuple[int, int] | int, stride: int = 1, groups: int = 1
    ) -> None:
        """A convolution that pads so that only the stride shrinks the plane."""
        window = (kernel, kernel) if isinstance(kernel, int) else kernel
        before, into = self.size, self.channels
        self.rows, self.columns = -(-self.rows // stride), -(-self.columns // stride)
        self.channels = channels
        weights = channels * into // groups * math.prod(window)
        self.layers.append(
            Layer(
                kind=LayerKind.DEPTHWISE if groups > 1 else LayerKind.CONVOLUTION,
                macs=weights * self.rows * self.columns,
                weights=weights,
                inputs=before,
                outputs=self.size,
                kernel=window,
                strides=(stride, stride),
                groups=groups,
                in_channels=into,
                out_channels=channels,
                plane=(self.rows, self.columns),
            )
        )

    def depthwise(self, kernel: int, stride: int) -> None:
        """One filter a channel."""
        self.conv(self.channels, kernel, stride, groups=self.channels)

    def dense(self, channels: int) -> None:
        """A product with a matrix of the whole plane."""
        self.layers.append(
            Layer(
                kind=LayerKind.DENSE,
                macs=self.size * channels,
                weights=self.size * channels,
                inputs=self.size,
                outputs=channels,
                in_channels=self.size,
                out_channels=channels,
            )
        )
        self.rows = self.columns = 1
        self.channels = channels

    def other(self, inputs: int, outputs: int) -> None:
        """An elementwise layer or a pool."""
        self.layers.append(Layer(kind=LayerKind.OTHER, inputs=inputs, outputs=outputs))

    def add(self) -> None:
        """The sum with a shortcut."""
        self.other(2 * self.size, self.size)

    def pool(self, stride: int = 0) -> None:
        """A pool of that stride; 0 for the whole plane."""
        before = self.size
        self.rows = -(-self.rows // stride) if stride else 1
        self.columns = -(-self.columns // stride) if stride else 1
        self.other(before, self.size)

    def inverted(self, *, kernel: int, wide: int, channels: int, stride: int) -> None:
        """MobileNetV2's block."""
        into = self.channels
        if wide != into:
            self.conv(wide, 1)
        self.depthwise(kernel, stride)
        self.conv(channels, 1)
        if stride == 1 and into == channels:
            self.add()

    def squeeze(self) -> None:
        """MobileNetV3's squeeze and excite."""
        size, channels, plane = self.size, self.channels, (self.rows, self.columns)
        self.pool()
        self.dense(divisible(channels / 4))
        self.dense(channels)
        self.other(channels, channels)
        self.rows, self.columns = plane
        self.other(size + channels, size)


def divisible(channels: float, by: int = 8) -> int:
    """The nearest multiple, never more than a tenth below."""
    rounded = max(by, int(channels + by / 2) // by * by)
    return rounded + by if rounded < 0.9 * channels else rounded


def classify(net: Network, classes: int, *, dense: bool = False) -> list[Layer]:
    """Pool, classifier, softmax."""
    net.pool()
    if dense:
        net.dense(classes)
    else:
        net.conv(classes, 1)
    net.other(classes, classes)
    return net.layers


def mobilenet_v1(alpha: float, side: int, classes: int = 1001) -> list[Layer]:
    """MobileNet v1."""
    net = Network(side, side, 3)
    net.conv(int(32 * alpha), 3, 2)
    blocks = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)]
    for channels, stride in [*blocks, *[(512, 1)] * 5, (1024, 2), (1024, 1)]:
        net.depthwise(3, stride)
        net.conv(int(channels * alpha), 1)
    return classify(net, classes)


def mobilenet_v2(alpha: float, side: int) -> list[Layer]:
    """MobileNet v2."""
    net = Network(side, side, 3)
    net.conv(divisible(32 * alpha), 3, 2)
    for expansion, channels, repeats, stride in V2_BLOCKS:
        for repeat in range(repeats):
            net.inverted(
                kernel=3,
                wide=net.channels * expansion,
                channels=divisible(channels * alpha),
                stride=1 if repeat else stride,
            )
    net.conv(divisible(1280 * max(1.0, alpha)), 1)
    return classify(net, 1001)


def mobilenet_v3(size: str, alpha: float, *, minimalistic: bool = False) -> list[Layer]:
    """MobileNet v3; the minimalistic ones have neither 5x5, hard swish nor squeeze and excite."""
    net = Network(224, 224, 3)
    net.conv(16, 3, 2)
    swish = not minimalistic
    if swish:
        net.other(net.size, net.size)
    for kernel, expansion, channels, squeezed, hard, stride in (
        V3_LARGE if size == "large" else V3_SMALL
    ):
        into, out = net.channels, divisible(channels * alpha)
        wide = into if expansion == 1 else divisible(into * expansion)
        if wide != into:
            net.conv(wide, 1)
            if hard and swish:
                net.other(net.size, net.size)
        net.depthwise(3 if minimalistic else kernel, stride)
        if hard and swish:
            net.other(net.size, net.size)
        if squeezed and swish:
            net.squeeze()
        net.conv(out, 1)
        if stride == 1 and into == out:
            net.add()
    net.conv(divisible(net.channels * 6), 1)
    if swish:
        net.other(net.size, net.size)
    net.pool()
    net.conv(1280 if size == "large" else 1024, 1)
    if swish:
        net.other(net.size, net.size)
    net.conv(1001, 1)
    net.other(1001, 1001)
    return net.layers


def efficientnet_lite(number: int) -> list[Layer]:
    """EfficientNet-Lite 0 to 4."""
    width, depth, side = LITE_SCALES[number]
    net = Network(side, side, 3)
    net.conv(32, 3, 2)
    for position, (kernel, repeats, expansion, channels, stride) in enumerate(LITE_BLOCKS):
        fixed = position in {0, len(LITE_BLOCKS) - 1}
        for repeat in range(repeats if fixed else math.ceil(repeats * depth)):
            net.inverted(
                kernel=kernel,
                wide=net.channels * expansion,
                channels=divisible(channels * width),
                stride=1 if repeat else stride,
            )
    net.conv(1280, 1)
    return classify(net, 1000, dense=True)


def resnet50(side: int = 224) -> list[Layer]:
    """ResNet-50 v1.5: the stride is in the 3x3 convolution."""
    net = Network(side, side, 3)
    net.conv(64, 7, 2)
    net.pool(2)
    for channels, repeats, first_stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for repeat in range(repeats):
            stride = 1 if repeat else first_stride
            entry = (net.rows, net.columns, net.channels)
            net.conv(channels, 1)
            net.conv(channels, 3, stride)
            net.conv(4 * channels, 1)
            if not repeat:
                end = (net.rows, net.columns, net.channels)
                net.rows, net.columns, net.channels = entry
                net.conv(4 * channels, 1, stride)
                net.rows, net.columns, net.channels = end
            net.add()
    return classify(net, 1001, dense=True)


def vgg(convolutions: tuple[int, ...]) -> list[Layer]:
    """VGG with that many convolutions before each pool."""
    net = Network(224, 224, 3)
    for channels, repeats in zip((64, 128, 256, 512, 512), convolutions, strict=True):
        for _ in range(repeats):
            net.conv(channels, 3)
        net.pool(2)
    for channels in (4096, 4096, 1000):
        net.dense(channels)
    net.other(1000, 1000)
    return net.layers


def keyword_spotting() -> list[Layer]:
    """MLPerf Tiny's DS-CNN."""
    net = Network(49, 10, 1)
    net.conv(64, (10, 4), 2)
    for _ in range(4):
        net.depthwise(3, 1)
        net.conv(64, 1)
    return classify(net, 12, dense=True)


def resnet8() -> list[Layer]:
    """MLPerf Tiny's image classifier."""
    net = Network(32, 32, 3)
    net.conv(16, 3)
    for channels, stride in ((16, 1), (32, 2), (64, 2)):
        entry = (net.rows, net.columns, net.channels)
        net.conv(channels, 3, stride)
        net.conv(channels, 3)
        if stride > 1:
            end = (net.rows, net.columns, net.channels)
            net.rows, net.columns, net.channels = entry
            net.conv(channels, 1, stride)
            net.rows, net.columns, net.channels = end
        net.add()
    return classify(net, 10, dense=True)


def autoencoder() -> list[Layer]:
    """MLPerf Tiny's anomaly detector."""
    net = Network(1, 1, 640)
    for channels in (128, 128, 128, 128, 8, 128, 128, 128, 128, 640):
        net.dense(channels)
    return net.layers


def build_all() -> dict[str, tuple[str, list[Layer]]]:
    """Family and layers of every model, by the name that the tables of latencies use."""
    found: dict[str, tuple[str, list[Layer]]] = {}
    for alpha in ("0.25", "0.5", "0.75", "1.0"):
        for side in (128, 160, 192, 224):
            layers = mobilenet_v1(float(alpha), side)
            found[f"mobilenet_v1_{alpha}_{side}"] = ("mobilenet_v1", layers)
    for alpha in ("0.35", "0.5", "0.75", "1.0"):
        for side in (96, 128, 160, 192, 224):
            layers = mobilenet_v2(float(alpha), side)
            found[f"mobilenet_v2_{alpha}_{side}"] = ("mobilenet_v2", layers)
    for alpha in ("1.3", "1.4"):
        found[f"mobilenet_v2_{alpha}_224"] = ("mobilenet_v2", mobilenet_v2(float(alpha), 224))
    for size in ("large", "small"):
        for alpha in ("0.75", "1.0"):
            layers = mobilenet_v3(size, float(alpha))
            found[f"mobilenet_v3_{size}_{alpha}_224"] = ("mobilenet_v3", layers)
        layers = mobilenet_v3(size, 1.0, minimalistic=True)
        found[f"mobilenet_v3_{size}_minimalistic_1.0_224"] = ("mobilenet_v3", layers)
    for number in range(len(LITE_SCALES)):
        layers = efficientnet_lite(number)
        found[f"efficientnet_lite{number}"] = ("efficientnet_lite", layers)
    found["resnet50_v1.5"] = ("resnet", resnet50())
    found["resnet50_v1_299"] = ("resnet", resnet50(299))
    found["vgg16"] = ("vgg16", vgg((2, 2, 3, 3, 3)))
    found["vgg19"] = ("vgg16", vgg((2, 2, 4, 4, 4)))
    found["ds_cnn_kws"] = ("ds_cnn", keyword_spotting())
    found["resnet8_cifar10"] = ("resnet8", resnet8())
    found["mobilenet_v1_0.25_96_vww"] = ("mobilenet_v1", mobilenet_v1(0.25, 96, classes=2))
    found["mlperf_tiny_ad_toycar_fc_autoencoder"] = ("autoencoder", autoencoder())
    return found
