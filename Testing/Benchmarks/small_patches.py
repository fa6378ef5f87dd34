"""What denoising small patches two at a time saves on a CPU, where single ones fall to a slow convolution kernel.

    python Testing/Benchmarks/small_patches.py [--preset mini] [--steps 5]

Prints the processor seconds of a sampling step for one sample, alone and in a pair, of one run on one thread, and
whether a sample is the same to the last bit whatever is beside it.
"""

import argparse
import time

import torch

from LNSynthLib.training.settings import load_preset, make_generator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--steps", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    generator = make_generator(load_preset(args.preset))
    with torch.no_grad():
        for weight in generator.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    form = generator.form
    condition = torch.zeros(2, form.condition_channels, *form.patch)
    condition[:, 1] = 1
    condition[0, form.anatomy_channels, 8:16, 8:16, 8:16] = 1
    condition[1, form.anatomy_channels, 4:20, 10:14, 6:22] = 1
    seconds, made = {}, {}
    for together in (1, 2):
        generator.sample(condition[:together], seeds=[1, 2][:together], steps=2)  # warms up
        began = time.process_time()
        made[together] = generator.sample(condition[:together], seeds=[1, 2][:together], steps=args.steps)
        seconds[together] = (time.process_time() - began) / args.steps / together
    twice = generator.sample(condition[:1].expand(2, -1, -1, -1, -1), seeds=[1, 1], steps=args.steps)
    print(f"{args.preset}, {'x'.join(map(str, form.patch))}, one thread: {seconds[1]:.3f} s a step alone, "
          f"{seconds[2]:.3f} s a step and sample in a pair, ratio {seconds[2] / seconds[1]:.2f}")
    print(f"the same beside another: {torch.equal(twice[0], made[2][0])}")


if __name__ == "__main__":
    main()
