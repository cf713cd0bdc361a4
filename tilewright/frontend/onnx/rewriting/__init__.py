"""Rewrites ONNX operators that TVM 0.27 lacks or imports wrongly into operators that it imports right.

``rewrite`` is the entry; ``registry`` says which rewriting serves which operator, and each family of operators has a
module. The docstring of each rewriting states its rewrite as before --> after.

These converters of TVM's are replaced, here or by a converter of our own (``converting``). What
``python -m bench.importer --theirs`` shows of them, or their source:

    Attention                   is that of another domain, and fails on that of ONNX
    BatchNormalization          does not compile in float64
    BitShift                    shifts by the count modulo the width
    CumSum                      calls a library of TVM's
    Dropout                     gives a mask of another type
    Einsum                      is one loop over all labels
    Equal                       of bool does not compile
    Expand                      fails if the shape is a weight
    EyeLike                     refuses another type than its input's
    GroupNormalization          is inlined by ONNX Runtime, with shapes that are computed
    InstanceNormalization       reduces the axes of an image instead of rows
    IsInf                       ignores both attributes
    LayerNormalization          gives its first output only, takes no scale that is broadcast, and fails in float64
    Max, Min, Mean, Sum         stack their operands in memory
    MeanVarianceNormalization   subtracts two large numbers, and adds no epsilon
    Mod                         is no number for an infinite divisor
    OneHot                      gives another element type, and takes no values that are computed
    Pow                         takes floating-point numbers of one type only
    Range, Shape                are constants where the shapes say so
    ReduceMax, ReduceMin        give the lowest finite number for a row of minus infinity; fail on bool
    ReduceMean                  of integers has another type
    Reduce*                     return their input where there are no axes; take no axes that are computed
    RMSNormalization            of all axes does not compile
    Shrink                      rounds both attributes for integers
    Softmax, LogSoftmax         are computed in half precision
    SpaceToDepth                ignores its mode
    ThresholdedRelu             is no number for minus infinity
    Tile                        has wrong indices if two axes are repeated
    Upsample                    reads the scales of opset 9 as an attribute

Each of them has cases in ``bench/_importer_cases.py``. ``tests/frontend/onnx/rewriting/test_families.py`` runs all of
them in ONNX Runtime, before and after the rewriting; ``tests/frontend/onnx/converting/test_arithmetic.py`` and
``tests/bench/test_importer.py`` compile a sample, and ``python -m bench.importer`` compiles all of them.
"""
