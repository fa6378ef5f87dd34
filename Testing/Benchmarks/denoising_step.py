"""One denoising step of LN-DDPM's denoiser against MONAI's DiffusionModelUNet of equal widths, in the same run.

    python Testing/Benchmarks/denoising_step.py [--side 64] [--repeats 3] [--device cpu]

MONAI's network gets the same input channels, levels, residual blocks, heads and one transformer layer at the coarsest
level, cross-attending to as many tokens. Steps alternate, the best of each counts; FLOPs are torch's own count.
"""

import argparse
import time

import torch
from monai.networks.nets import DiffusionModelUNet
from torch.utils.flop_counter import FlopCounterMode

from LNSynthLib.generators.networks.lnddpm import Denoiser, DenoiserSettings


def measure(step, device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=64, help="patch side in voxels (the paper's is 128)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    device = torch.device(args.device)
    s = DenoiserSettings()
    levels = len(s.channels)
    ours = Denoiser(s, condition_channels=15).to(device).eval()
    theirs = DiffusionModelUNet(
        3, in_channels=16, out_channels=1, channels=s.channels, num_res_blocks=s.blocks, norm_num_groups=s.groups,
        attention_levels=[False] * (levels - 1) + [True], num_head_channels=s.head_width, with_conditioning=True,
        cross_attention_dim=s.token_width, transformer_num_layers=1, use_flash_attention=True).to(device).eval()

    x = torch.randn(1, 1, *[args.side] * 3, device=device)
    condition = torch.randn(1, 15, *x.shape[2:], device=device)
    nodes = torch.zeros_like(x)
    middle = slice(args.side // 2 - 6, args.side // 2 + 6)  # a node of 12 mm
    nodes[:, :, middle, middle, middle] = 1
    t = torch.tensor([100], device=device)
    tokens = torch.randn(1, (args.side // ours.stride) ** 3, s.token_width, device=device)
    steps = {"LN-DDPM": lambda: ours(x, t, condition, nodes),
             "MONAI": lambda: theirs(torch.cat([x, condition], 1), t, context=tokens)}

    best, flops = {}, {}
    with torch.no_grad():
        for name, step in steps.items():
            with FlopCounterMode(display=False) as counter:
                step()
            flops[name] = counter.get_total_flops()
        for _ in range(args.repeats):
            for name, step in steps.items():
                best[name] = min(best.get(name, float("inf")), measure(step, device))
    for name, net in {"LN-DDPM": ours, "MONAI": theirs}.items():
        parameters = sum(p.numel() for p in net.parameters())
        print(f"{name:8s} {parameters / 1e6:6.1f} M parameters  {flops[name] / 1e9:8.0f} GFLOP  {best[name]:7.2f} s")
    print(f"side {args.side}, {device}: LN-DDPM takes {best['LN-DDPM'] / best['MONAI']:.2f} of MONAI's time and "
          f"{flops['LN-DDPM'] / flops['MONAI']:.2f} of its FLOPs")


if __name__ == "__main__":
    main()
