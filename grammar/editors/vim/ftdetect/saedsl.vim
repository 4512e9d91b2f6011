autocmd BufRead,BufNewFile *.saedsl setfiletype saedsl
