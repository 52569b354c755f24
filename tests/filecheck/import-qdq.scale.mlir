// RUN: qcompiler opt %s -p 'import-qdq'
// CONSTANT: s = -0.5
func.func @main(%x: tensor<4xf32>) -> tensor<4xui8> {
  %s = "q.constant"() {value = dense_resource<s> : tensor<f32>} : () -> tensor<f32>
  %z = "q.constant"() {value = dense_resource<z> : tensor<ui8>} : () -> tensor<ui8>
  %0 = "onnx.QuantizeLinear"(%x, %s, %z) : (tensor<4xf32>, tensor<f32>, tensor<ui8>) -> tensor<4xui8> loc("quantize")
  func.return %0 : tensor<4xui8>
}
// CHECK: error: onnx.QuantizeLinear 'quantize': expected scales that are finite and positive, found -0.5
