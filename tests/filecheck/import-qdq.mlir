// RUN: qcompiler opt %s -p 'import-qdq'
// CONSTANT: s = 0.5
// CONSTANT: t = 0.25
// CONSTANT: z = 3
// CONSTANT: ws = 0.125 0.0625
// CONSTANT: wz = 0 0
func.func @main(%x: tensor<1x3x4x4xf32>, %u: tensor<2xui8>) -> (tensor<1x2x4x4xf32>, tensor<1x3x4x4xui8>, tensor<2xf32>) {
  %s = "q.constant"() {value = dense_resource<s> : tensor<f32>} : () -> tensor<f32>
  %t = "q.constant"() {value = dense_resource<t> : tensor<f32>} : () -> tensor<f32>
  %z = "q.constant"() {value = dense_resource<z> : tensor<ui8>} : () -> tensor<ui8>
  %w = "q.constant"() {value = dense_resource<w> : tensor<2x3x1x1xi8>} : () -> tensor<2x3x1x1xi8>
  %ws = "q.constant"() {value = dense_resource<ws> : tensor<2xf32>} : () -> tensor<2xf32>
  %wz = "q.constant"() {value = dense_resource<wz> : tensor<2xi8>} : () -> tensor<2xi8>
  %0 = "onnx.QuantizeLinear"(%x, %s, %z) : (tensor<1x3x4x4xf32>, tensor<f32>, tensor<ui8>) -> tensor<1x3x4x4xui8> loc("quantize")
  %1 = "onnx.DequantizeLinear"(%0, %s, %z) : (tensor<1x3x4x4xui8>, tensor<f32>, tensor<ui8>) -> tensor<1x3x4x4xf32> loc("dequantize")
  %2 = "onnx.DequantizeLinear"(%w, %ws, %wz) {axis = 0 : i64} : (tensor<2x3x1x1xi8>, tensor<2xf32>, tensor<2xi8>) -> tensor<2x3x1x1xf32> loc("weight")
  %3 = "onnx.Conv"(%1, %2) : (tensor<1x3x4x4xf32>, tensor<2x3x1x1xf32>) -> tensor<1x2x4x4xf32> loc("conv")
  %4 = "onnx.DequantizeLinear"(%u, %t, %z) : (tensor<2xui8>, tensor<f32>, tensor<ui8>) -> tensor<2xf32> loc("of input")
  func.return %3, %0, %4 : tensor<1x2x4x4xf32>, tensor<1x3x4x4xui8>, tensor<2xf32>
}
// CHECK: q.stage = "qdq"
// CHECK: %[[Q:.*]] = "q.quantize"(%x) {q.why = "as the imported model says"} {{.*}}!quant.uniform<u8:f32, 5.0e-01:3>>
// CHECK-NEXT: %[[D:.*]] = "q.dequantize"(%[[Q]])
// CHECK-NEXT: %[[OUT:.*]] = "q.quantize_linear"(%[[D]], %s, %z)
// CHECK-NEXT: %[[X:.*]] = "q.dequantize"(%[[Q]])
// CHECK-NEXT: %[[QW:.*]] = "q.constant"() {value = dense_resource<w> : {{.*}}!quant.uniform<i8:f32:0, {1.25e-01, 6.25e-02}>
// CHECK-NEXT: %[[W:.*]] = "q.dequantize"(%[[QW]])
// CHECK-NEXT: %[[Y:.*]] = "onnx.Conv"(%[[X]], %[[W]])
// CHECK-NEXT: %[[U:.*]] = "q.dequantize_linear"(%u, %t, %z)
// CHECK-NEXT: %[[QU:.*]] = "q.quantize"(%[[U]]) {{.*}}!quant.uniform<u8:f32, 2.5e-01:3>>
// CHECK-NEXT: %[[V:.*]] = "q.dequantize"(%[[QU]])
// CHECK-NEXT: func.return %[[Y]], %[[OUT]], %[[V]]
