"""Rewrites ONNX operators that TVM 0.27 lacks or imports wrongly into operators that it imports right.

``rewrite`` is the entry; ``registry`` says which rewriting serves which operator, and each family of operators has a
module. The docstring of each rewriting states its rewrite as before --> after.

These converters of TVM's are replaced, here or by a converter of our own (``converting``):

    Attention                   is that of another domain, and fails on that of ONNX
    BatchNormalization          takes one element type; its statistics are constants only
    BitShift                    shifts by the count modulo the width
    Cast                        to bool rounds first, so that 0.5 is false
    CumSum                      calls a library of TVM's
    Dropout                     gives a mask of another type
    Einsum                      is one loop over all labels
    Elu, Selu                   have constants of float32
    Equal                       of bool does not compile
    Expand                      fails if the shape is a weight
    EyeLike                     refuses another type than its input's
    GroupNormalization          is of float32 only before opset 21
    Hardmax                     gives a Python type
    InstanceNormalization       reduces several axes in half precision
    IsInf                       ignores both attributes
    LayerNormalization          gives its first output only, and takes no scale that is broadcast
    Max, Min, Mean, Sum         stack their operands in memory
    MeanVarianceNormalization   subtracts two large numbers, and adds no epsilon
    Mod                         is no number for an infinite divisor
    OneHot                      gives a Python type, and takes no values that are computed
    Pow                         takes floating-point numbers of one type only
    Range, Shape, Size          are constants where the shapes say so
    ReduceMax, ReduceMin        give the lowest finite number for a row of minus infinity; fail on bool
    ReduceMean                  of integers has another type
    Reduce*                     return their input where there are no axes; take no axes that are computed
    RMSNormalization            of all axes does not compile
    Shrink                      rounds both attributes for integers
    Softmax, LogSoftmax         are computed in half precision
    SpaceToDepth                ignores its mode
    Split                       without sizes takes equal parts only
    ThresholdedRelu             has constants of float32; minus infinity is no number
    Tile                        has wrong indices if two axes are repeated
    Trilu                       fails on bool
    Upsample                    reads the scales of opset 9 as an attribute

Each of them has cases in ``bench/_importer_cases.py``. ``tests/frontend/onnx/rewriting/test_families.py`` runs all of
them in ONNX Runtime, before and after the rewriting; ``tests/frontend/onnx/converting/test_arithmetic.py`` and
``tests/bench/test_importer.py`` compile a sample, and ``python -m bench.importer`` compiles all of them.
"""
