# A library of bench/lib that is preloaded into a server, and the memory that it shares with whoever
# measures.
package Bench::Preload;

use strict;
use warnings;

use File::Temp;

use Bench ();
use Test::Memstat::Build ();

# The library that bench/lib/NAME.c makes, with so many bytes to share.
sub new {
    my ($class, $name, $size) = @_;
    my $library = Test::Memstat::Build::build("bench/lib/$name.c", "$name.so", qw(-shared -fPIC));
    my $file = File::Temp->new(TMPDIR => 1);
    syswrite $file, "\0" x $size;
    # Workers run as another user.
    chmod 0666, "$file";
    return bless { library => $library, file => $file, size => $size }, $class;
}

# The environment of a server that is to have it.
sub env { return "LD_PRELOAD=$_[0]{library}\nBENCH_SHARED=$_[0]{file}\n" }

# What is in the memory.
sub read {
    my ($self) = @_;
    sysseek $self->{file}, 0, 0;
    sysread $self->{file}, my $bytes, $self->{size};
    return $bytes;
}

# The same, and sets it back to zeros.
sub take {
    my ($self) = @_;
    my $bytes = $self->read;
    sysseek $self->{file}, 0, 0;
    syswrite $self->{file}, "\0" x $self->{size};
    return $bytes;
}

1;
