// RUN: qcompiler opt %s -p 'legalize{storage=u8 rounding=fp32}'
!h = !quant.uniform<i16:f32, 1.0e-02>
!s = !quant.uniform<i8:f32, 5.0e-01:-28>
module attributes {q.stage = "integer"} {
  func.func @main(%x: tensor<4x!h>, %y: tensor<4x!s>) -> (tensor<4x!h>, tensor<4x!s>) {
    %0 = "q.add"(%x, %y) {clamp = array<i64: -32768, 32767>} : (tensor<4x!h>, tensor<4x!s>) -> tensor<4x!h> loc("sum")
    func.return %0, %y : tensor<4x!h>, tensor<4x!s>
  }
}
// Storage of 16 bits stays; signed bytes become unsigned ones, of arguments and results too.
// CHECK: func.func @main(%x: tensor<4x!quant.uniform<i16:f32, 1.0e-02>>, %y: tensor<4x!quant.uniform<u8:f32, 5.0e-01:100>>) -> (tensor<4x!quant.uniform<i16:f32, 1.0e-02>>, tensor<4x!quant.uniform<u8:f32, 5.0e-01:100>>)
// CHECK-NEXT: "q.add"(%x, %y) {clamp = array<i64: -32768, 32767>}
