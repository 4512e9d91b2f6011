" Vim syntax for saedsl. Written by grammar/editors/generate.py.
if exists("b:current_syntax")
  finish
endif

syntax keyword saedslStatement model sae prompt prompts let dir metric at record sweep include reset run generate
syntax keyword saedslEdit ablate amplify set clamp add project patch freeze keep drop apply
syntax keyword saedslSite embed final logits
syntax keyword saedslPosition gen last all everywhere bos every span
syntax keyword saedslTarget error
syntax keyword saedslUnit max std norm
syntax keyword saedslClause when then from with as to on x by else and or except
syntax keyword saedslFree chat system in out module zero mean position resample of only not
syntax keyword saedslFunction logit prob logprob kl ce act
syntax keyword saedslOption mode seed temp top_p
syntax keyword saedslMode iterative frozen direct

syntax match saedslNumber "\v<\d+(\.\d+)?([eE][-+]?\d+)?>"
syntax match saedslFactor "\v<x\s*-?\d+(\.\d+)?([eE][-+]?\d+)?>"
syntax match saedslPart "\v<[fhn]\d+(\.\.\d+)?>"
syntax match saedslLayer "\v<L(-?\d+(\.\.-?\d+)?|\*|\{[-0-9., ]*\})(\.[a-z_]+)+"
syntax match saedslBound "\v\$[A-Za-z_]\w*"
syntax match saedslEscape "\v\\([\"\\nt]|u\x\x\x\x)" contained
syntax match saedslString "\v\"(\\.|[^\"\\])*\"" contains=saedslEscape
syntax match saedslComment "\v#.*$" contains=@Spell

highlight default link saedslNumber Number
highlight default link saedslFactor Number
highlight default link saedslPart Identifier
highlight default link saedslLayer Type
highlight default link saedslBound PreProc
highlight default link saedslEscape SpecialChar
highlight default link saedslString String
highlight default link saedslComment Comment
highlight default link saedslStatement Statement
highlight default link saedslEdit Function
highlight default link saedslSite Type
highlight default link saedslPosition Constant
highlight default link saedslTarget Special
highlight default link saedslUnit Keyword
highlight default link saedslClause Keyword
highlight default link saedslFree Keyword
highlight default link saedslFunction Function
highlight default link saedslOption PreProc
highlight default link saedslMode Constant

let b:current_syntax = "saedsl"
