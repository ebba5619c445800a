"""Makes stubs of the contract with the stock generator, and imports from there on."""
import pathlib, sys, tempfile
import grpc_tools
from grpc_tools import protoc

contract = pathlib.Path(sys.argv.pop(1))
stubs = tempfile.TemporaryDirectory()
files = sorted(str(file.relative_to(contract)) for file in contract.rglob("*.proto"))
include = [f"-I{contract}", f"-I{pathlib.Path(grpc_tools.__file__).parent / '_proto'}"]
failed = protoc.main(["protoc", *include, f"--python_out={stubs.name}", f"--grpc_python_out={stubs.name}", *files])
assert not failed, "the generator refuses the contract"
sys.path.insert(0, stubs.name)
