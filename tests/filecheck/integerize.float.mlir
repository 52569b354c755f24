// RUN: qcompiler opt %s -p 'integerize'
!u = !quant.uniform<u8:f32, 5.0e-01:100>
module attributes {q.stage = "qdq"} {
  func.func @main(%x: tensor<1x4xf32>) -> (tensor<1x4xf32>, tensor<1x4xf32>) {
    %qx = "q.quantize"(%x) : (tensor<1x4xf32>) -> tensor<1x4x!u>
    %dx = "q.dequantize"(%qx) : (tensor<1x4x!u>) -> tensor<1x4xf32>
    %0 = "onnx.Add"(%dx, %dx) : (tensor<1x4xf32>, tensor<1x4xf32>) -> tensor<1x4xf32> loc("sum")
    %q0 = "q.quantize"(%0) {q.why = "because"} : (tensor<1x4xf32>) -> tensor<1x4x!u>
    %d0 = "q.dequantize"(%q0) : (tensor<1x4x!u>) -> tensor<1x4xf32>
    %1 = "onnx.Mul"(%d0, %x) : (tensor<1x4xf32>, tensor<1x4xf32>) -> tensor<1x4xf32> loc("float")
    func.return %d0, %1 : tensor<1x4xf32>, tensor<1x4xf32>
  }
}
// A sum of one value with itself is a table; the product has a float operand and nothing that stores its result.
// CHECK: %[[X:.*]] = "q.quantize"(%x)
// CHECK: %[[S:.*]] = "q.lut"(%[[X]], %{{.*}}) {q.why = "because"} {{.*}} loc("sum")
// CHECK-NEXT: %[[D:.*]] = "q.dequantize"(%[[S]])
// CHECK-NEXT: "onnx.Mul"(%[[D]], %x) {q.float = "not between dequantize and quantize of 8 or 16 bits"}
