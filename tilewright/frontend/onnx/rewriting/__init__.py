"""Rewrites ONNX operators that TVM 0.27 lacks or imports wrongly into operators that it imports right.

``rewrite`` is the entry; ``registry`` says which rewriting serves which operator, and each family of operators has a
module. The docstring of each rewriting states its rewrite as before --> after. Whatever the rewritings give is tested
in ONNX Runtime (``tests/frontend/onnx/rewriting/test_families.py``), and compiled by ``bench.importer``.
"""
