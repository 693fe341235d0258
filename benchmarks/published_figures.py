"""Latencies and memory that others published, with their sources: data for published.py.

Every latency is one request at a time. The split is by device: what was chosen by figures was
chosen on the devices in `FIT_ON`; everything on other devices is held out. A figure that a
profile's own peak was derived from says nothing about the estimate: it is a `peak` row, and counts
nowhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

Set = Literal["fit", "held out", "peak"]

FIT_ON = (
    "jetson-orin-nano-super",
    "t4",
    "core-ultra-155h",
    "xeon-sapphire-rapids",
    "raspberry-pi-5",
)
"""A small and a large GPU, a chip with three engines, a CPU with many cores, one with few."""

SOURCES = {
    "UL": "Ultralytics docs/en/guides/nvidia-jetson.md @01007503 and models/yolo11.md @040502be",
    "RPI": "Ultralytics docs/en/guides/raspberry-pi.md @01007503, OpenVINO",
    "ML": "MLPerf Inference v3.0 (RTX 4090: v3.1), closed, NVIDIA and CTuning, single-stream mean",
    "KRAI": "MLPerf Inference v3.0, Krai: TFLite with ruy on 12 cores (ResNet-50: ArmNN), mean",
    "OV": "OpenVINO 2024.1 benchmark file @16867e9e; BERT at 124 and 384 tokens (its FAQ)",
    "CML": "Apple coremltools opt-quantization-perf.md @25562dd5, iPhone 15 Pro, Xcode median",
    "QAI": "Qualcomm AI Hub perf.yaml @52c080d2, best of TFLite and QNN",
}
HARNESS_MS = {"jetson": 1.7, "t4": 0.2}
"""What Ultralytics' Python harness adds around the engine, by host: chosen on the fit rows, since
MLPerf's harness runs the whole of ResNet-50 in less on the same boards."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """One latency as somebody published it."""

    profile: str
    engine: str
    precision: str
    network: str
    ms: float
    source: str
    toolchain: str = "openvino"
    peak: bool = False
    """The profile's peak was derived from this figure, or from its throughput twin."""
    note: str = ""

    @property
    def set(self) -> Set:
        """What this row is used for."""
        return "peak" if self.peak else "fit" if self.profile in FIT_ON else "held out"

    @property
    def host(self) -> str:
        """A key of `HARNESS_MS`, where the publisher's harness is slow enough to count."""
        if self.source != "UL":
            return ""
        return "t4" if self.profile == "t4" else "jetson"

    @property
    def harness_ms(self) -> float:
        """What the publisher's own harness adds, as far as it is known."""
        return HARNESS_MS.get(self.host, 0.0)


def _rows(
    profile: str, engine: str, source: str, toolchain: str, table: str, note: str = ""
) -> Iterator[Published]:
    """`network precision ms [peak]` per line."""
    for line in table.strip().splitlines():
        network, precision, ms, *flags = line.split()
        yield Published(
            profile=profile,
            engine=engine,
            precision=precision,
            network=network,
            ms=float(ms),
            source=source,
            toolchain=toolchain,
            peak="peak" in flags,
            note=note,
        )


PUBLISHED: tuple[Published, ...] = (
    *_rows("jetson-orin-nano-super", "gpu", "UL", "tensorrt", """
        yolo11n f32 7.60
        yolo11n f16 4.91
        yolo11n int8 3.91
        yolo11s f32 13.29
        yolo11s f16 7.30
        yolo11s int8 5.25
        yolo11m f32 28.21
        yolo11m f16 13.99
        yolo11m int8 9.58
        yolo11x f32 67.32
        yolo11x f16 32.94
        yolo11x int8 20.72
    """),
    *_rows("jetson-orin-nx-16gb", "gpu", "UL", "tensorrt", """
        yolo11n f32 8.05
        yolo11n f16 4.85
        yolo11n int8 4.37
    """),
    *_rows("jetson-orin-nx-16gb", "gpu", "ML", "tensorrt", "resnet50 int8 1.085"),
    *_rows("jetson-agx-orin-64gb", "gpu", "UL", "tensorrt", """
        yolo11n f32 3.94
        yolo11n f16 2.60
        yolo11n int8 2.45
        yolo11s f32 6.52
        yolo11s f16 3.68
        yolo11s int8 3.01
        yolo11m f32 12.69
        yolo11m f16 6.79
        yolo11m int8 5.12
        yolo11x f32 28.40
        yolo11x f16 13.66
        yolo11x int8 9.78
    """),
    *_rows("jetson-agx-orin-64gb", "gpu", "ML", "tensorrt", "resnet50 int8 0.630"),
    *_rows("jetson-agx-orin-64gb", "cpu", "KRAI", "onnxruntime", """
        resnet50 f32 28.8 peak
        mobilenet_v2 f32 7.32
        mobilenet_v2 int8 3.97
        mobilenet_v3_large f32 8.20
        mobilenet_v3_large int8 5.62
        mobilenet_v3_small f32 4.76
        mobilenet_v3_small int8 2.77
    """),
    *_rows("t4", "gpu", "UL", "tensorrt", """
        yolo11n f16 1.5
        yolo11s f16 2.5
        yolo11m f16 4.7
        yolo11x f16 11.3
    """),
    *_rows("t4", "gpu", "ML", "tensorrt", "resnet50 int8 0.812"),
    *_rows("l4", "gpu", "ML", "tensorrt", "resnet50 int8 0.356"),
    *_rows("a100-80gb", "gpu", "ML", "tensorrt", "resnet50 int8 0.455"),
    *_rows("h100-pcie", "gpu", "ML", "tensorrt", "resnet50 int8 0.415"),
    *_rows("rtx-4090", "gpu", "ML", "tensorrt", "resnet50 int8 0.216"),
    *_rows("core-ultra-155h", "cpu", "OV", "openvino", """
        resnet50 int8 7.98
        mobilenet_v2 int8 1.66
        yolov8n int8 15.57
        bert_base_124 int8 40.91
    """, note="a 165H"),
    *_rows("core-ultra-155h", "gpu", "OV", "openvino", """
        resnet50 int8 2.34
        yolov8n int8 3.27
        bert_base_124 int8 7.03
    """, note="a 165H"),
    *_rows("core-ultra-155h", "npu", "OV", "openvino", """
        resnet50 int8 1.61
        mobilenet_v2 int8 0.78
        bert_base_124 int8 14.83
    """, note="a 165H"),
    *_rows("i7-1360p", "cpu", "OV", "openvino", """
        resnet50 int8 5.22
        mobilenet_v2 int8 1.11
        yolov8n int8 9.38
        bert_base_124 int8 24.95
        bert_large int8 234
    """),
    *_rows("n100", "cpu", "OV", "openvino", """
        resnet50 int8 23.86
        yolov8n int8 47.42
        bert_base_124 int8 96.96
    """, note="an x7425E at 12 W"),
    *_rows("n100", "gpu", "OV", "openvino", """
        resnet50 int8 35.58
        mobilenet_v2 int8 8.73
        yolov8n int8 63.3
        bert_base_124 int8 148
    """, note="an x7425E at 12 W"),
    *_rows("xeon-sapphire-rapids", "cpu", "OV", "openvino", """
        resnet50 int8 1.07
        resnet50 bf16 1.29
        mobilenet_v2 int8 0.69
        yolov8n int8 3.37
        yolov8n bf16 2.66
        bert_base_124 int8 3.89
        bert_base_124 bf16 4.67
        bert_large bf16 31.3
    """, note="two 8490H"),
    *_rows("raspberry-pi-5", "cpu", "RPI", "openvino", """
        yolo11n f32 81.2
        yolo11s f32 179 peak
    """),
    *_rows("a17-pro", "npu", "CML", "executorch", """
        resnet50 f16 1.38
        resnet50 int8 0.77
        mobilenet_v2 f16 0.49
        mobilenet_v2 int8 0.20
    """),
    *_rows("snapdragon-8-gen-3", "npu", "QAI", "executorch", """
        resnet50 f16 1.60
        resnet50 int8 0.576
        mobilenet_v2 f16 0.593
        mobilenet_v3_large f16 0.682
        mobilenet_v3_small f16 0.557
        efficientnet_b0 f16 1.073
        bert_base f16 16.78
        vit_b16 f16 5.90
    """),
    *_rows("snapdragon-8-elite", "npu", "QAI", "executorch", """
        resnet50 f16 1.30
        resnet50 int8 0.491
        vit_b16 f16 3.94
        bert_base f16 12.11
    """),
    *_rows("snapdragon-7-gen-4", "npu", "QAI", "executorch", "resnet50 int8 1.088"),
)  # fmt: skip

PEAK_MEMORY_MB = (
    ("resnet50", "f16", 121, 78),
    ("mobilenet_v2", "f16", 55, 40),
    ("mobilenet_v3_large", "f16", 61, 40),
    ("efficientnet_b0", "f16", 77, 45),
    ("yolov8n", "f16", 174, 109),
    ("yolo11n", "f16", 186, 111),
    ("bert_base", "f16", 597, 533),
    ("vit_b16", "f16", 323, 296),
    ("resnet50", "int8", 72, 38),
    ("mobilenet_v2", "int8", 41, 28),
    ("yolov8n", "int8", 51, 33),
    ("yolo11n", "int8", 55, 36),
    ("vit_b16", "int8", 189, 90),
)
"""Network, precision, MB on a Galaxy S24 and an S25 (QAI, TFLite, the most of each range)."""
