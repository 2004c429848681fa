// A click on a head sorts its table by that column, numbers as numbers; a second click reverses the order.
for(const h of document.querySelectorAll('th[data-sort]'))h.onclick=()=>{const t=h.closest('table'),b=t.tBodies[0],
i=[...h.parentNode.children].indexOf(h),v=r=>{const s=r.cells[i].dataset.value||r.cells[i].textContent,n=parseFloat(s);
return isNaN(n)?s:n},d=h.dataset.sort==='1'?-1:1;h.dataset.sort=d;
[...b.rows].sort((a,c)=>{const x=v(a),y=v(c);return(x>y)-(x<y)===0?0:((x>y)||(typeof x>typeof y)?d:-d)})
.forEach(r=>b.append(r))}
