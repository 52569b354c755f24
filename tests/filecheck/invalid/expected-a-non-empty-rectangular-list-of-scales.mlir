// RUN: qcompiler opt %s --verify-only
func.func @main(%x: tensor<2x!quant.uniform<u8:f32:0, {}>>) {
  func.return
}
// CHECK: error: {{.*}}expected a non-empty, rectangular list of scales
