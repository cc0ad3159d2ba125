// The person's choice of light or dark, set before anything is drawn. Without one the system's is followed.
const theme = localStorage.getItem("alignclip-theme");
if (theme) document.documentElement.dataset.theme = theme;
