// A maximum and a minimum with constants, one after the other, are a Clip; with 0 alone, a Relu.
// RUN: qcompiler opt %s -p 'canonicalize'
// CONSTANT: zero = 0
// CONSTANT: six = 6
// CONSTANT: half = 0.5
func.func @main(%x: tensor<2x3xf32>) -> (tensor<2x3xf32>, tensor<2x3xf32>, tensor<2x3xf32>) {
  %zero = "q.constant"() {value = dense_resource<zero> : tensor<f32>} : () -> tensor<f32>
  %six = "q.constant"() {value = dense_resource<six> : tensor<1xf32>} : () -> tensor<1xf32>
  %half = "q.constant"() {value = dense_resource<half> : tensor<f32>} : () -> tensor<f32>
  %0 = "onnx.Max"(%x, %zero) : (tensor<2x3xf32>, tensor<f32>) -> tensor<2x3xf32> loc("relu")
  %1 = "onnx.Max"(%half, %x) : (tensor<f32>, tensor<2x3xf32>) -> tensor<2x3xf32> loc("low")
  %2 = "onnx.Min"(%1, %six) : (tensor<2x3xf32>, tensor<1xf32>) -> tensor<2x3xf32> loc("high")
  %3 = "onnx.Max"(%x, %half) : (tensor<2x3xf32>, tensor<f32>) -> tensor<2x3xf32> loc("one")
  func.return %0, %2, %3 : tensor<2x3xf32>, tensor<2x3xf32>, tensor<2x3xf32>
}
// CHECK: %[[R:.*]] = "onnx.Relu"(%x) {{.*}} loc("relu")
// CHECK-NEXT: %[[L:.*]] = "q.constant"() {value = dense_resource<low>
// CHECK-NEXT: %[[H:.*]] = "q.constant"() {value = dense_resource<high>
// CHECK-NEXT: %[[C:.*]] = "onnx.Clip"(%x, %[[L]], %[[H]]) {{.*}} loc(fused["low", "high"])
// CHECK-NEXT: %[[M:.*]] = "onnx.Max"(%x, %half)
// CHECK-NEXT: func.return %[[R]], %[[C]], %[[M]]
