//go:build !purego

package gcm

import "golang.org/x/sys/cpu"

// detect asks the processor and, by way of what x/sys reads from XCR0, the
// operating system. The bits for the vector forms of the AES and carry-less
// multiplication instructions are read here, because x/sys has them only for
// processors with AVX-512.
func detect() able {
	const vaes, vpclmulqdq = 1 << 9, 1 << 10 // CPUID leaf 7, ECX
	if !cpu.X86.HasAVX2 || !cpu.X86.HasBMI2 || !cpu.X86.HasAES || !cpu.X86.HasPCLMULQDQ {
		return able{variantGeneric, "the processor or the operating system has no AVX2, AES-NI, PCLMULQDQ or BMI2"}
	}
	if ecx := leaf7(); ecx&vaes == 0 || ecx&vpclmulqdq == 0 {
		return able{variantGeneric, "the processor has no VAES or VPCLMULQDQ"}
	}
	x := &cpu.X86
	if !x.HasAVX512F || !x.HasAVX512BW || !x.HasAVX512DQ || !x.HasAVX512VL || !x.HasAVX512VAES || !x.HasAVX512VPCLMULQDQ {
		return able{variantAVX2, "the processor or the operating system has no AVX-512 (F, BW, DQ, VL)"}
	}
	return able{best: variantAVX512}
}
