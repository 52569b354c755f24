// RUN: qcompiler opt %s -p 'integerize'
!u = !quant.uniform<u8:f32, 5.0e-01:100>
!v = !quant.uniform<u8:f32, 2.5e-01>
!w = !quant.uniform<i8<-127:127>:f32:0, {1.0e-02, 2.0e-02}>
module attributes {q.stage = "qdq"} {
  func.func @main(%x: tensor<1x3x4x4xf32>) -> (tensor<1x2x4x4xf32>, tensor<1x2x4x4xf32>) {
    %w = "q.constant"() {q.why = "of the weight", value = dense_resource<w> : tensor<2x3x1x1x!w>} : () -> tensor<2x3x1x1x!w>
    %qx = "q.quantize"(%x) : (tensor<1x3x4x4xf32>) -> tensor<1x3x4x4x!u>
    %dx = "q.dequantize"(%qx) : (tensor<1x3x4x4x!u>) -> tensor<1x3x4x4xf32>
    %dw = "q.dequantize"(%w) : (tensor<2x3x1x1x!w>) -> tensor<2x3x1x1xf32>
    %0 = "onnx.Conv"(%dx, %dw) : (tensor<1x3x4x4xf32>, tensor<2x3x1x1xf32>) -> tensor<1x2x4x4xf32> loc("conv")
    %1 = "onnx.Relu"(%0) : (tensor<1x2x4x4xf32>) -> tensor<1x2x4x4xf32> loc("relu")
    %q1 = "q.quantize"(%1) {q.why = "because"} : (tensor<1x2x4x4xf32>) -> tensor<1x2x4x4x!v>
    %d1 = "q.dequantize"(%q1) : (tensor<1x2x4x4x!v>) -> tensor<1x2x4x4xf32>
    %2 = "onnx.Sigmoid"(%d1) : (tensor<1x2x4x4xf32>) -> tensor<1x2x4x4xf32> loc("gate")
    %3 = "onnx.Mul"(%d1, %2) : (tensor<1x2x4x4xf32>, tensor<1x2x4x4xf32>) -> tensor<1x2x4x4xf32> loc("silu")
    %q3 = "q.quantize"(%3) : (tensor<1x2x4x4xf32>) -> tensor<1x2x4x4x!u>
    %d3 = "q.dequantize"(%q3) : (tensor<1x2x4x4x!u>) -> tensor<1x2x4x4xf32>
    %4 = "onnx.Hardmax"(%d3) : (tensor<1x2x4x4xf32>) -> tensor<1x2x4x4xf32> loc("float")
    func.return %d3, %4 : tensor<1x2x4x4xf32>, tensor<1x2x4x4xf32>
  }
}
// CHECK: q.stage = "integer"
// CHECK: %[[X:.*]] = "q.quantize"(%x)
// CHECK-NEXT: %[[B:.*]] = "q.constant"() {value = dense_resource<bias> : tensor<2xi32>}
// CHECK-NEXT: %[[W:.*]] = "q.constant"() {q.why = "of the weight", value = dense_resource<w> : tensor<2x3x1x1xi8>}
// CHECK-NEXT: %[[M:.*]] = "q.constant"() {value = dense_resource<multiplier> : tensor<2xf64>}
// CHECK-NEXT: %[[Y:.*]] = "q.conv"(%[[X]], %[[W]], %[[B]], %[[M]])
// CHECK-SAME: q.why = "because"
// CHECK-SAME: x_zero_point = 100
// CHECK-SAME: loc(fused["conv", "relu"])
// CHECK-NEXT: %[[T:.*]] = "q.constant"() {value = dense_resource<table> : tensor<256xui8>}
// CHECK-NEXT: %[[S:.*]] = "q.lut"(%[[Y]], %[[T]]) {{.*}} loc("silu")
// CHECK-NEXT: %[[D:.*]] = "q.dequantize"(%[[S]])
// CHECK-NEXT: "onnx.Hardmax"(%[[D]]) {q.float = "Hardmax has no integer form"}
