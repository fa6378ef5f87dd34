"""Setup: which Python packages are missing, what they take, and their installation on the person's click alone."""

import dataclasses

import qt
import slicer
from LNSynthLogic.jobs import batch, environment
from LNSynthLogic.jobs.process import interpreter
from slicer.i18n import tr as _

from LNSynthLib.runtime.errors import LNSynthError


class SetupPanel:
    """Hidden where nothing is missing."""

    def __init__(self, host):
        self.host, self.ui = host, host.ui
        self._said = ""
        self.ui.installButton.connect("clicked()", self._install)

    def refresh(self) -> None:
        found, ui = environment.current(), self.ui
        words = environment.describe(found)
        ui.setupSection.visible = bool(words) or bool(self._said)
        ui.setupLabel.text = words or _("All Python packages are installed.")
        missing = self.host.jobs.reason if words else _("Nothing is missing.")
        self.host.set_ready(ui.installButton, missing,
                            _("Install the missing packages into Slicer's Python. You are asked first."))
        ui.setupStatus.text = self._said or (missing if words else "")

    def close(self) -> None:
        pass

    def _install(self) -> None:
        plan = environment.plan(environment.current())
        question = "\n\n".join([
            _("The packages are downloaded and put into Slicer's Python: about {size} on the disk, and more for a "
              "build of torch with CUDA. It takes some minutes.").format(size=environment.megabytes(plan.mb)),
            _("numpy, SimpleITK, vtk and requests stay as Slicer brings them.")])
        names = "\n".join(filter(None, [plan.torch and f"torch{plan.torch}", *plan.packages, *plan.alone]))
        if not slicer.util.confirmOkCancelDisplay(question, windowTitle="LNSynth", detailedText=names):
            return
        try:
            if plan.torch and not self._install_torch(plan.torch):
                return
            # torch is here now, so its version is among those that must stay.
            self._install_packages(environment.plan(environment.inspect()))
        except LNSynthError as error:
            self._ended(str(error))
            self.host.show_error(str(error))

    def _install_torch(self, requirement: str) -> bool:
        """Through the PyTorch extension, which knows the build for this graphics card. False where it did not work."""
        try:
            import PyTorchUtils
        except ModuleNotFoundError:
            raise LNSynthError(_("torch is installed through the extension PyTorch: install it with the Extensions "
                                 "Manager, restart Slicer, and click again.")) from None
        self.host.say(_("torch is being installed, which takes some minutes ..."))
        qt.QApplication.setOverrideCursor(qt.Qt.WaitCursor)
        try:
            torch = PyTorchUtils.PyTorchUtilsLogic().installTorch(torchVersionRequirement=requirement)
        except Exception as error:  # pip's, whatever it was
            raise LNSynthError(_("torch could not be installed ({error}); Slicer's error log tells more.").format(
                error=error)) from error
        finally:
            qt.QApplication.restoreOverrideCursor()
        return torch is not None

    def _install_packages(self, plan) -> None:
        """What Slicer's own packaging (5.12) can do goes its way. It knows no way to leave dependencies out, so what is
        to be installed alone goes by job in every Slicer."""
        if plan.packages:
            try:
                import slicer.packaging
            except ImportError:  # before Slicer 5.12
                pass
            else:
                self._install_by_slicer(plan, slicer.packaging.pip_ensure)
                plan = dataclasses.replace(plan, packages=())
        if plan.packages or plan.alone:
            self._install_by_job(plan)
        else:
            self._ended("")

    def _install_by_slicer(self, plan, pip_ensure) -> None:
        """The packages with their dependencies, in Slicer's own dialog."""
        constraints = environment.write_constraints(plan, self.host.temporary_folder() / "constraints.txt")
        try:
            pip_ensure(list(plan.packages), constraints=constraints, skip_packages=list(plan.skip),
                       prompt_install=False, requester="LNSynth")
        except Exception as error:  # CalledProcessError, with pip's log shown before
            raise LNSynthError(_("The packages could not be installed ({error}).").format(error=error)) from error
        finally:
            constraints.unlink(missing_ok=True)

    def _install_by_job(self, plan) -> None:
        """pip as a job: the window stays usable, its log is shown, and it can be cancelled."""
        constraints = environment.write_constraints(plan, self.host.temporary_folder() / "constraints.txt")
        steps = environment.pip_commands(plan, interpreter(), constraints)
        item = batch.BatchItem(_("Python packages"), tuple(batch.Step(tuple(step)) for step in steps))
        self.host.jobs.run(_("Installation"), lambda **told: batch.Run([item], **told),
                           on_end=lambda run: self._ended(run.error))

    def _ended(self, error: str) -> None:
        environment.current.cache_clear()
        missing = environment.describe(environment.current())
        self._said = error or ("" if missing else _("Installed. Restart Slicer if it was asked for before."))
        self.host.refresh()
