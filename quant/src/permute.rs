//! The order of a block's heads: the wide ones first, so that each class is one run. Attention does not
//! know the order of heads, so the model computes what it did before.
//!
//! ```text
//! qkv weight    [3][H][dim][C]      every part in the new order
//! qkv bias      [3][H][dim]
//! query scale   [H]
//! proj weight   [C][H][dim]         the columns that read the heads
//! ```

use varmint_core::tensor::{Role, Spec};

/// All heads in their new order: those of `wide` first, each class in its old order.
pub(crate) fn order(wide: &[usize], heads: usize) -> Vec<usize> {
    let (mut first, rest): (Vec<_>, Vec<_>) = (0..heads).partition(|h| wide.contains(h));
    first.extend(rest);
    first
}

/// The values of a tensor of this block with its heads in the given order; other tensors as they are.
pub(crate) fn permute(spec: &Spec, order: &[usize], values: Vec<f32>) -> Vec<f32> {
    let heads = order.len();
    // What belongs to one head, in a run of all heads.
    let unit = match spec.role {
        Role::QkvWeight => spec.rows * spec.cols / (3 * heads),
        Role::QkvBias => spec.cols / (3 * heads),
        Role::ProjWeight => spec.cols / heads,
        Role::QueryScale => 1,
        _ => return values,
    };
    let runs = values.chunks_exact(unit * heads);
    runs.flat_map(|run| order.iter().flat_map(|h| &run[h * unit..][..unit])).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use varmint_core::tensor::Class;

    fn spec(role: Role, rows: usize, cols: usize) -> Spec {
        Spec { role, set: 0, index: 0, rows, taps: 1, cols, class: Class::Weight }
    }

    #[test]
    fn wide_heads_come_first() {
        assert_eq!(order(&[3, 1], 4), [1, 3, 0, 2]);
        assert_eq!(order(&[], 3), [0, 1, 2]);
        assert_eq!(order(&[0, 1, 2], 3), [0, 1, 2]);
    }

    /// Three heads of two channels.
    #[test]
    fn every_tensor_by_head() {
        let order = [2, 0, 1];
        let count = |n: usize| (0..n).map(|v| v as f32).collect::<Vec<_>>();
        let scale = permute(&spec(Role::QueryScale, 1, 3), &order, count(3));
        assert_eq!(scale, [2.0, 0.0, 1.0]);
        let bias = permute(&spec(Role::QkvBias, 1, 18), &order, count(18));
        assert_eq!(&bias[..8], [4.0, 5.0, 0.0, 1.0, 2.0, 3.0, 10.0, 11.0]);
        let proj = permute(&spec(Role::ProjWeight, 6, 6), &order, count(36));
        assert_eq!(&proj[6..12], [10.0, 11.0, 6.0, 7.0, 8.0, 9.0]);
        let qkv = permute(&spec(Role::QkvWeight, 18, 6), &order, count(108));
        assert_eq!((qkv[0], qkv[12], qkv[24], qkv[36]), (24.0, 0.0, 12.0, 60.0));
        let other = permute(&spec(Role::Fc1Weight, 6, 6), &order, count(36));
        assert_eq!(other, count(36));
    }
}
