//! The inverse of a change of layout, found by watching where it takes each element.
//!
//! Whatever reorders, splits, stacks or transposes moves elements as they are. So the same function that converts a
//! checkpoint is run over a tensor whose elements are their own numbers: what comes out says where each element went,
//! and read the other way it is the inverse. Nothing has to be said twice, and a function that computes something
//! instead of moving it is found out, since what it gives are no numbers of elements.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use gguf::{Error, Result};

use crate::transform::{self, Elements, RowSource, Rows, row_count, row_len};

/// Rows that are looked at together while a change is watched.
const CHUNK: u64 = 1 << 16;

/// The most elements whose places are remembered one by one, where they do not move as whole runs.
const MOST: u64 = 1 << 24;

/// A tensor of this shape whose elements are the numbers from `first` on, as bits.
#[derive(Debug)]
struct Numbered {
    shape: Vec<u64>,
    first: u32,
}

impl RowSource for Numbered {
    fn shape(&self) -> &[u64] {
        &self.shape
    }
    fn elements(&self) -> Elements {
        Elements::F32
    }
    fn rows(&self, rows: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let row = row_len(&self.shape);
        let numbers = rows.start * row..rows.end * row;
        Ok(Cow::Owned(numbers.flat_map(|n| self.first.wrapping_add(n as u32).to_le_bytes()).collect()))
    }
}

/// Tensors of these shapes whose elements are numbered through, from 1 on: 0 is what a change fills in.
///
/// # Errors
/// More elements than there are numbers.
pub(crate) fn numbered(shapes: &[Vec<u64>]) -> Result<Vec<Rows>> {
    let mut first = 1_u64;
    let mut all: Vec<Rows> = Vec::with_capacity(shapes.len());
    for shape in shapes {
        let start = u32::try_from(first).map_err(|_| too_large())?;
        all.push(Arc::new(Numbered { shape: shape.clone(), first: start }));
        first += shape.iter().product::<u64>();
    }
    u32::try_from(first).map_err(|_| too_large())?;
    Ok(all)
}

fn too_large() -> Error {
    Error::input("the tensors that are put together have more than 4 billion elements")
}

/// Where elements of the sources lie in the outputs: a run of `len` elements from number `from` on is found in an
/// output from element `at` on.
#[derive(Clone, Copy, Debug)]
struct Run {
    from: u32,
    len: u32,
    output: u32,
    at: u64,
}

/// What a change makes of numbered tensors, the other way: sorted runs that cover every element of the sources.
#[derive(Debug)]
struct Runs {
    outputs: Vec<Rows>,
    runs: Vec<Run>,
}

/// The tensors of `shapes` that a change made `moved` of, where `data` is what is known of each output: same number,
/// same shapes.
///
/// # Errors
/// A change that computes, or leaves elements out.
pub(crate) fn inverted(shapes: &[Vec<u64>], moved: &[Rows], data: &[Rows]) -> Result<Vec<Rows>> {
    inverted_behind(0, shapes, moved, data)
}

/// As [`inverted`], where the change leaves out so many elements in the beginning, which become zeros. An element that
/// stands in several places is taken from the first of them.
///
/// # Errors
/// As [`inverted`].
pub(crate) fn inverted_behind(lost: u64, shapes: &[Vec<u64>], moved: &[Rows], data: &[Rows]) -> Result<Vec<Rows>> {
    let total: u64 = shapes.iter().map(|s| s.iter().product::<u64>()).sum();
    let mut runs: Vec<Run> = Vec::new();
    for (output, rows) in moved.iter().enumerate() {
        watch(rows, output as u32, total, &data[output], &mut runs)?;
    }
    let mut outputs = data.to_vec();
    if lost > 0 && lost <= u64::from(u32::MAX) {
        runs.push(Run { from: 1, len: lost as u32, output: outputs.len() as u32, at: 0 });
        outputs.push(transform::values(vec![1, lost], &vec![0.0; lost as usize]));
    }
    // Of elements that stand in several places the longest run is taken.
    runs.sort_unstable_by_key(|run| (run.from, std::cmp::Reverse(run.len)));
    let mut next = 1_u64;
    let mut covering: Vec<Run> = Vec::with_capacity(runs.len());
    for mut run in runs {
        let end = u64::from(run.from) + u64::from(run.len);
        if end <= next {
            continue;
        }
        let known = next.checked_sub(u64::from(run.from)).ok_or_else(|| Error::input("elements are left out"))?;
        run = Run { from: next as u32, len: (end - next) as u32, at: run.at + known, ..run };
        next = end;
        covering.push(run);
    }
    if next != total + 1 {
        return Err(Error::input("elements are left out"));
    }
    let runs = Arc::new(Runs { outputs, runs: covering });
    let mut first = 1_u64;
    let elements = common(data);
    Ok(shapes
        .iter()
        .map(|shape| {
            let rows: Rows = Arc::new(Gathered { runs: Arc::clone(&runs), shape: shape.clone(), first, elements });
            first += shape.iter().product::<u64>();
            rows
        })
        .collect())
}

/// The type in which tensors meet.
fn common(data: &[Rows]) -> Elements {
    let first = data.first().map_or(Elements::F32, |rows| rows.elements());
    if data.iter().all(|rows| rows.elements() == first) { first } else { Elements::F32 }
}

/// Where a change took the elements. What it filled in has to be 0 in `data` as well.
fn watch(rows: &Rows, output: u32, total: u64, data: &Rows, runs: &mut Vec<Run>) -> Result<()> {
    let computes = || Error::input("the values are computed, not moved");
    if rows.elements() != Elements::F32 {
        return Err(computes());
    }
    let (count, row) = (row_count(rows.shape()), row_len(rows.shape()).max(1));
    let step = (CHUNK / row).max(1);
    let mut at = 0_u64;
    let begin = runs.len();
    for first in (0..count).step_by(step as usize) {
        let range = first..(first + step).min(count);
        let bytes = rows.rows(range.clone())?;
        let numbers = bytes.as_chunks::<4>().0;
        if numbers.contains(&[0; 4]) {
            if data.shape() != rows.shape() {
                return Err(computes());
            }
            let values = transform::to_f32(data.elements(), &data.rows(range)?)?;
            if numbers.iter().zip(&values).any(|(number, value)| *number == [0; 4] && *value != 0.0) {
                return Err(Error::input("the file has values where the change fills in zeros"));
            }
        }
        for number in numbers {
            let number = u32::from_le_bytes(*number);
            if u64::from(number) > total {
                return Err(computes());
            }
            if number == 0 {
                at += 1;
                continue;
            }
            match runs.last_mut() {
                Some(run) if runs_on(run, number, output, at) => run.len += 1,
                _ => {
                    if (runs.len() - begin) as u64 > MOST {
                        return Err(Error::input("too many elements move one by one"));
                    }
                    runs.push(Run { from: number, len: 1, output, at });
                }
            }
            at += 1;
        }
    }
    Ok(())
}

fn runs_on(run: &Run, number: u32, output: u32, at: u64) -> bool {
    run.output == output && run.from.checked_add(run.len) == Some(number) && run.at + u64::from(run.len) == at
}

/// A source, gathered from where a change took it.
#[derive(Debug)]
struct Gathered {
    runs: Arc<Runs>,
    shape: Vec<u64>,
    first: u64,
    elements: Elements,
}

impl RowSource for Gathered {
    fn shape(&self) -> &[u64] {
        &self.shape
    }
    fn elements(&self) -> Elements {
        self.elements
    }
    fn rows(&self, rows: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let row = row_len(&self.shape);
        let (start, end) = (self.first + rows.start * row, self.first + rows.end * row);
        let all = &self.runs.runs;
        let mut place = all.partition_point(|run| u64::from(run.from) <= start).saturating_sub(1);
        let size = self.elements.bytes(1).unwrap_or(4) as usize;
        let mut out = Vec::with_capacity((end - start) as usize * size);
        let mut at = start;
        // The rows of an output that were read last: neighbours often lie in them.
        let mut kept: Option<(u32, Range<u64>, Cow<'_, [u8]>)> = None;
        while at < end {
            let Some(run) = all.get(place) else { break };
            let skip = at - u64::from(run.from);
            let len = (u64::from(run.len) - skip).min(end - at);
            let of = &self.runs.outputs[run.output as usize];
            let width = row_len(of.shape()).max(1);
            let span = run.at + skip..run.at + skip + len;
            let wanted = span.start / width..span.end.div_ceil(width);
            let there = kept.as_ref().is_some_and(|(output, rows, _)| {
                *output == run.output && rows.start <= wanted.start && wanted.end <= rows.end
            });
            if !there {
                // A few thousand elements around what is asked for: those of the next runs may be among them.
                let more = (4096 / width).max(1);
                let reach = if len < width {
                    wanted.start..(wanted.end + more).min(row_count(of.shape()))
                } else {
                    wanted.clone()
                };
                let bytes = of.rows(reach.clone())?;
                let bytes = crate::transform::cast(bytes, of.elements(), self.elements.ty())?;
                kept = Some((run.output, reach, bytes));
            }
            if let Some((_, rows, bytes)) = &kept {
                let first = (span.start - rows.start * width) as usize * size;
                out.extend_from_slice(&bytes[first..first + len as usize * size]);
            }
            at += len;
            place += 1;
        }
        Ok(Cow::Owned(out))
    }
}

/// A tensor of this shape whose elements are small numbers.
#[derive(Debug)]
struct Counted(Vec<u64>);

impl RowSource for Counted {
    fn shape(&self) -> &[u64] {
        &self.0
    }
    fn elements(&self) -> Elements {
        Elements::F32
    }
    fn rows(&self, rows: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let row = row_len(&self.0);
        let numbers = rows.start * row..rows.end * row;
        Ok(Cow::Owned(numbers.flat_map(|n| ((n % 127 + 1) as f32).to_le_bytes()).collect()))
    }
}

/// The number that a change multiplies a tensor of this shape with, where it does nothing else.
pub(crate) fn factor(shape: &[u64], change: impl Fn(Rows) -> Result<Rows>) -> Option<f32> {
    let made = change(Arc::new(Counted(shape.to_vec()))).ok().filter(|made| made.shape() == shape)?;
    let floats = |rows: &Rows, row: u64| transform::to_f32(rows.elements(), &rows.rows(row..row + 1).ok()?).ok();
    let of: Rows = Arc::new(Counted(shape.to_vec()));
    let factor = floats(&made, 0)?.first()? / floats(&of, 0)?.first()?;
    let last = row_count(shape).checked_sub(1)?;
    let same = [0, last].into_iter().all(|row| match (floats(&of, row), floats(&made, row)) {
        (Some(a), Some(b)) => a.iter().zip(&b).all(|(a, b)| a * factor == *b),
        _ => false,
    });
    (same && factor.is_normal()).then_some(factor)
}

/// Whether a change of a tensor of this shape, done twice, changes nothing.
pub(crate) fn undoes_itself(shape: &[u64], change: impl Fn(Rows) -> Result<Rows>) -> bool {
    let of: Rows = Arc::new(Counted(shape.to_vec()));
    let Ok(twice) = change(Arc::clone(&of)).and_then(&change) else { return false };
    let count = row_count(shape);
    let step = (CHUNK / row_len(shape).max(1)).max(1);
    let same = |first: u64| {
        let rows = first..(first + step).min(count);
        matches!((of.rows(rows.clone()), twice.rows(rows)), (Ok(a), Ok(b)) if a == b)
    };
    twice.shape() == shape && twice.elements() == Elements::F32 && (0..count).step_by(step as usize).all(same)
}

/// The most elements of a tensor that is looked at value by value.
const FEW: u64 = 1 << 16;

/// The tensor of this shape to which `change` applied `f` and moved what came out, where `data` is the result.
///
/// # Errors
/// A change that does something else, or more values than are looked at.
pub(crate) fn inverted_by_value(
    shape: &[u64],
    change: impl Fn(Rows) -> Result<Rows>,
    f: fn(f32) -> f32,
    data: &Rows,
) -> Result<Rows> {
    let total: u64 = shape.iter().product();
    if total > FEW {
        return Err(Error::input("too many values to look at"));
    }
    // Numbers around 0 that such functions keep apart.
    let numbers: Vec<f32> = (0..total).map(|i| (i as f32 + 0.5) / total as f32 * 4.0 - 2.0).collect();
    let places: HashMap<u32, u32> = (0..).zip(&numbers).map(|(i, number)| (f(*number).to_bits(), i)).collect();
    let moved = change(transform::values(shape.to_vec(), &numbers))?;
    let count = row_count(moved.shape());
    let values = transform::to_f32(moved.elements(), &moved.rows(0..count)?)?;
    if places.len() as u64 != total || values.len() as u64 != total || moved.shape() != data.shape() {
        return Err(Error::input("the values are computed in another way"));
    }
    let mut from = vec![u32::MAX; numbers.len()];
    for (at, value) in (0..).zip(&values) {
        match places.get(&value.to_bits()) {
            Some(place) => from[*place as usize] = at,
            None => return Err(Error::input("the values are computed in another way")),
        }
    }
    if from.contains(&u32::MAX) {
        return Err(Error::input("elements are left out"));
    }
    Ok(Arc::new(Picked { of: super::elementwise::undone(data, f), shape: shape.to_vec(), from }))
}

/// A small tensor whose elements stand elsewhere.
#[derive(Debug)]
struct Picked {
    of: Rows,
    shape: Vec<u64>,
    from: Vec<u32>,
}

impl RowSource for Picked {
    fn shape(&self) -> &[u64] {
        &self.shape
    }
    fn elements(&self) -> Elements {
        Elements::F32
    }
    fn rows(&self, rows: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let row = row_len(&self.shape);
        let all = transform::to_f32(self.of.elements(), &self.of.rows(0..row_count(self.of.shape()))?)?;
        let own = &self.from[(rows.start * row) as usize..(rows.end * row) as usize];
        let picked: Vec<f32> = own.iter().map(|at| all[*at as usize]).collect();
        Ok(Cow::Owned(transform::from_f32(&picked, Elements::F32)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::{reordered, sliced, to_f32, transposed, values};

    fn counting(shape: &[u64]) -> Rows {
        let n: u64 = shape.iter().product();
        values(shape.to_vec(), &(0..n).map(|i| i as f32).collect::<Vec<_>>())
    }

    fn all(rows: &Rows) -> Vec<f32> {
        to_f32(rows.elements(), &rows.rows(0..row_count(rows.shape())).unwrap()).unwrap()
    }

    fn there_and_back(shape: &[u64], change: impl Fn(&Rows) -> Vec<Rows>) {
        let of = counting(shape);
        let data = change(&of);
        let probe = numbered(&[shape.to_vec()]).unwrap();
        let back = inverted(&[shape.to_vec()], &change(&probe[0]), &data).unwrap();
        assert_eq!(back[0].shape(), shape);
        assert_eq!(all(&back[0]), all(&of));
        // At any cut.
        let rows = row_count(shape);
        let cut: Vec<u8> = (0..rows).flat_map(|r| back[0].rows(r..r + 1).unwrap().into_owned()).collect();
        assert_eq!(cut, back[0].rows(0..rows).unwrap().into_owned());
    }

    #[test]
    fn what_moves_comes_back() {
        there_and_back(&[8, 3], |of| vec![reordered(of, 0, &[(2, 4), (2, 1), (2, 2)]).unwrap()]);
        there_and_back(&[6, 4], |of| vec![transposed(of).unwrap()]);
        there_and_back(&[6, 4], |of| vec![sliced(of, 0, 0, 2).unwrap(), sliced(of, 0, 2, 4).unwrap()]);
        there_and_back(&[2, 6, 4], |of| vec![sliced(of, 1, 3, 3).unwrap(), sliced(of, 1, 0, 3).unwrap()]);
    }

    #[test]
    fn functions_of_values_are_found_among_moves() {
        let f = |v: f32| -transform::exp(v);
        let change = |of: Rows| reordered(&transform::mapped(&of, f), 0, &[(2, 4), (2, 1), (2, 2)]);
        let of = counting(&[8]);
        let data = change(of.clone()).unwrap();
        assert_eq!(all(&inverted_by_value(&[8], change, f, &data).unwrap()), all(&of));
        assert!(inverted_by_value(&[8], change, |v| v + 1.0, &data).is_err());
    }

    #[test]
    fn what_is_computed_or_left_out_has_no_inverse() {
        let probe = numbered(&[vec![4, 2]]).unwrap();
        let scaled = crate::transform::scaled(&probe[0], 2.0);
        assert!(inverted(&[vec![4, 2]], &[scaled], &[counting(&[4, 2])]).is_err());
        let half = sliced(&probe[0], 0, 0, 2).unwrap();
        assert!(inverted(&[vec![4, 2]], &[half], &[counting(&[2, 2])]).is_err());
    }
}
