// RUN: qcompiler opt %s --verify-only
func.func @main(%x: tensor<2x!quant.uniform<u8:f32:0, {{1.0, 2.0}}>>) {
  func.return
}
// CHECK: error: {{.*}}in as many dimensions as there are axes (1), got [1, 2]
// -----
func.func @main(%x: tensor<2x!quant.uniform<u8:f32:{0:1, 0:2}, {{1.0, 2.0}}>>) {
  func.return
}
// CHECK: error: {{.*}}axes that are not negative, each once, got [0, 0]
