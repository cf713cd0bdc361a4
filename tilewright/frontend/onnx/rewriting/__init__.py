"""Rewrites ONNX operators that TVM 0.27 lacks or imports wrongly into operators that it imports right.

Call ``rewrite.rewrite``. ``registry`` lists the rewritings of each operator, and each family of operators has a module.
The docstring of each rewriting states its rewrite as before --> after.

These converters of TVM are replaced, here or by a converter of our own (``converting``). Their faults were found in
their source, or by ``python -m bench.importer --theirs``:

    ArgMax, ArgMin              give a place outside of the axis if all elements are the lowest or highest number
    Attention                   serves the operator of another domain, and fails on the one of ONNX
    BatchNormalization          does not compile in float64
    BitShift                    shifts by the count modulo the width
    CumSum                      calls a library of TVM's
    Dropout                     gives a mask of another type
    Einsum                      is one loop over all labels
    Equal                       does not compile for bool
    Expand                      fails if the shape is a weight
    EyeLike                     refuses another type than its input's
    GroupNormalization          is inlined by ONNX Runtime, with computed shapes
    InstanceNormalization       reduces the axes of an image instead of rows
    IsInf                       ignores both attributes
    LayerNormalization          gives its first output only, takes no scale that is broadcast, and fails in float64
    MaxPool                     gives the lowest finite number for a window of minus infinity
    Max, Min, Mean, Sum         stack their operands in memory
    MeanVarianceNormalization   subtracts two large numbers, and adds no epsilon
    Mod                         gives NaN for an infinite divisor
    OneHot                      gives another element type, and takes no computed values
    Pow                         takes floating-point numbers of one type only
    Range, Shape                are not folded if shapes make them constant
    ReduceMax, ReduceMin        give the lowest finite number for a row of minus infinity; fail on bool
    ReduceMean                  gives another type for integers
    Reduce*                     return their input if there are no axes; take no computed axes
    ReduceLogSumExp             gives NaN for infinity
    RMSNormalization            does not compile for all axes
    Shrink                      rounds both attributes for integers
    Sign                        does not compile for unsigned integers
    Sinh, Cosh                  do not compile
    Softmax, LogSoftmax         are computed in half precision
    SpaceToDepth                ignores its mode
    ThresholdedRelu             gives NaN for minus infinity
    Tile                        computes wrong indices if two axes are repeated
    Upsample                    reads the scales of opset 9 as an attribute

Each of them has cases in ``bench/_importer_cases.py``. ``tests/frontend/onnx/rewriting/test_families.py`` runs all of
them in ONNX Runtime, before and after the rewriting; ``tests/frontend/onnx/converting/test_arithmetic.py`` and
``tests/bench/test_importer.py`` compile a sample, and ``python -m bench.importer`` compiles all of them.
"""
