// RUN: qcompiler opt %s -p 'fold-batch-norm'
// CONSTANT: var = 1 2
func.func @main(%x: tensor<1x3x2x2xf32>, %z: tensor<1x2x2x2xf32>) -> (tensor<1x2x2x2xf32>, tensor<1x2x2x2xf32>) {
  %w = "q.constant"() {value = dense_resource<w> : tensor<2x3x1x1xf32>} : () -> tensor<2x3x1x1xf32>
  %gamma = "q.constant"() {value = dense_resource<gamma> : tensor<2xf32>} : () -> tensor<2xf32>
  %var = "q.constant"() {value = dense_resource<var> : tensor<2xf32>} : () -> tensor<2xf32>
  %c = "q.constant"() {value = dense_resource<c> : tensor<2x1x1xf32>} : () -> tensor<2x1x1xf32>
  %0 = "onnx.Conv"(%x, %w) {strides = array<i64: 1, 1>} : (tensor<1x3x2x2xf32>, tensor<2x3x1x1xf32>) -> tensor<1x2x2x2xf32> loc("conv")
  %1 = "onnx.BatchNormalization"(%0, %gamma, %gamma, %gamma, %var) {epsilon = 1.0e-03 : f32} : (tensor<1x2x2x2xf32>, tensor<2xf32>, tensor<2xf32>, tensor<2xf32>, tensor<2xf32>) -> tensor<1x2x2x2xf32> loc("norm")
  %2 = "onnx.Mul"(%1, %c) : (tensor<1x2x2x2xf32>, tensor<2x1x1xf32>) -> tensor<1x2x2x2xf32> loc("factor")
  %3 = "onnx.BatchNormalization"(%z, %gamma, %gamma, %gamma, %var) : (tensor<1x2x2x2xf32>, tensor<2xf32>, tensor<2xf32>, tensor<2xf32>, tensor<2xf32>) -> tensor<1x2x2x2xf32> loc("lone")
  func.return %2, %3 : tensor<1x2x2x2xf32>, tensor<1x2x2x2xf32>
}
// CHECK-NOT: BatchNormalization
// CHECK: %[[W:.*]] = "q.constant"() {value = dense_resource<w.folded.folded>
// CHECK-NEXT: %[[B:.*]] = "q.constant"() {value = dense_resource<w.folded.bias>
// CHECK-NEXT: %[[Y:.*]] = "onnx.Conv"(%x, %[[W]], %[[B]]) {strides = array<i64: 1, 1>}
// CHECK-SAME: loc(fused["conv", "norm", "factor"])
// CHECK-NOT: onnx.Mul
// CHECK: %[[Z:.*]] = "onnx.Conv"(%z, %{{.*}}, %{{.*}}) {group = 2 : i64} {{.*}}tensor<2x1x1x1xf32>{{.*}} loc("lone")
// CHECK-NEXT: func.return %[[Y]], %[[Z]]
